// Numbers, sizes, times and foreign text as a person wants to read them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace slipway::cli {

// "812 B", "3.4 KiB", "1.0 GiB".
[[nodiscard]] std::string humane_bytes(std::uint64_t bytes);

// "60,000".
[[nodiscard]] std::string humane_count(std::uint64_t count);

// "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h".
[[nodiscard]] std::string humane_duration(std::chrono::duration<double> time);

// How long `then` is before `now`: "just now", "4 min ago", "3 d ago".
[[nodiscard]] std::string humane_age(std::chrono::duration<double> age);

// "980", "41.2 k", "1.3 M".
[[nodiscard]] std::string humane_rate(double per_second);

// Four decimals, or four significant digits where those say little: "0.4182", "24.1289", "1e-05".
[[nodiscard]] std::string humane_number(double value);

// `text` with control characters replaced, so that a name from the server cannot steer the terminal.
[[nodiscard]] std::string printable(std::string_view text);

// Columns of a terminal that UTF-8 `text` takes, one for each character.
[[nodiscard]] std::size_t display_width(std::string_view text);

// An RFC 3339 UTC time such as "2026-01-02T03:04:05.678Z"; nullopt when it is not one.
[[nodiscard]] std::optional<std::chrono::system_clock::time_point> parse_time(std::string_view rfc3339);

// Age of such a time at `now`; the text itself when it is not one.
[[nodiscard]] std::string humane_time_ago(std::string_view rfc3339, std::chrono::system_clock::time_point now);

// `text` made fit to be one segment of a URL's path.
[[nodiscard]] std::string url_segment(std::string_view text);

}  // namespace slipway::cli

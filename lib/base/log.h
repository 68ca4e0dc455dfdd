// Logging set-up: one line an event, `event key=value ...`, as text or as JSON lines, on standard error. Lines are
// written by a thread of their own, so that a log that is not read holds nobody up: the oldest waiting lines are lost
// then, and counted as slipway_log_dropped_total.
#pragma once

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "lib/base/error.h"

namespace slipway {

// Lines that can wait to be written.
inline constexpr std::size_t kMaxLogLines = 256;

// Starts logging for `service`. `format` is "text" or "json", `level` one of trace, debug, info, warning, error.
// Errors: kInvalidArgument (another word).
[[nodiscard]] Result<void> start_logging(const std::string& service, const std::string& format,
                                         const std::string& level);

// Waits until what was logged before is written, for at most `patience`; also done at exit. Not after fork.
void flush_logging(std::chrono::milliseconds patience = std::chrono::milliseconds(1'000));

// Whether the `count`th event of a kind that a stranger can cause at will gets a line: the first ten do, then each
// power of two, so that he cannot fill the disk.
[[nodiscard]] constexpr bool is_worth_a_line(std::uint64_t count) { return count <= 10 || (count & (count - 1)) == 0; }

// A value for a `key=value` field: quoted when it has blanks, quotes or control characters. It is UTF-8 whatever `text`
// is, and of text over 8 KiB it is the beginning and "...".
[[nodiscard]] std::string log_value(std::string_view text);

}  // namespace slipway

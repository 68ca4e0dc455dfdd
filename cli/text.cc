#include "cli/text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <format>

namespace slipway::cli {
namespace {

std::optional<int> number_at(std::string_view text, std::size_t at, std::size_t length) {
  int value = 0;
  if (at + length > text.size()) return std::nullopt;
  const char* end = text.data() + at + length;
  const auto [stopped, error] = std::from_chars(text.data() + at, end, value);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return value;
}

}  // namespace

std::string humane_bytes(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return std::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return std::format("{:.1f} {}", value, kUnits[unit]);
}

std::string humane_count(std::uint64_t count) {
  std::string text = std::to_string(count);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3) {
    text.insert(static_cast<std::size_t>(at), ",");
  }
  return text;
}

std::string humane_duration(std::chrono::duration<double> time) {
  const double seconds = std::max(0.0, time.count());
  if (seconds < 9.95) return std::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return std::format("{} s", whole);
  if (whole < 3600) return std::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return std::format("{} h {} min", whole / 3600, whole % 3600 / 60);
  return std::format("{} d {} h", whole / 86400, whole % 86400 / 3600);
}

std::string humane_age(std::chrono::duration<double> age) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, age.count()));
  if (whole < 5) return "just now";
  if (whole < 60) return std::format("{} s ago", whole);
  if (whole < 3600) return std::format("{} min ago", whole / 60);
  if (whole < 86400) return std::format("{} h ago", whole / 3600);
  return std::format("{} d ago", whole / 86400);
}

std::string humane_rate(double per_second) {
  if (per_second < 999.5) return std::format("{:.0f}", per_second);
  if (per_second < 999950) return std::format("{:.1f} k", per_second / 1e3);
  return std::format("{:.1f} M", per_second / 1e6);
}

std::string humane_number(double value) {
  const double size = std::abs(value);
  return size >= 0.001 && size < 1000 ? std::format("{:.4f}", value) : std::format("{:.4g}", value);
}

std::string printable(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // The C1 controls are two bytes in UTF-8: C2 80 to C2 9F.
    const bool c1 = c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (c1) ++i;
    out.push_back(c1 || c < 0x20 || c == 0x7F ? '?' : static_cast<char>(c));
  }
  return out;
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

std::optional<std::chrono::system_clock::time_point> parse_time(std::string_view rfc3339) {
  const auto year = number_at(rfc3339, 0, 4), month = number_at(rfc3339, 5, 2), day = number_at(rfc3339, 8, 2);
  const auto hour = number_at(rfc3339, 11, 2), minute = number_at(rfc3339, 14, 2), second = number_at(rfc3339, 17, 2);
  if (!year || !month || !day || !hour || !minute || !second || !rfc3339.ends_with('Z')) return std::nullopt;
  const std::chrono::year_month_day date(std::chrono::year(*year), std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day)));
  if (!date.ok()) return std::nullopt;
  const int millis = rfc3339[19] == '.' ? number_at(rfc3339, 20, 3).value_or(0) : 0;
  return std::chrono::sys_days(date) + std::chrono::hours(*hour) + std::chrono::minutes(*minute) +
         std::chrono::seconds(*second) + std::chrono::milliseconds(millis);
}

std::string humane_time_ago(std::string_view rfc3339, std::chrono::system_clock::time_point now) {
  const auto then = parse_time(rfc3339);
  return then ? humane_age(now - *then) : printable(rfc3339);
}

std::string url_segment(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                       c == '_' || c == '.' || c == '~';
    if (plain)
      out.push_back(c);
    else
      out += std::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace slipway::cli

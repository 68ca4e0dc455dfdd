#include "services/gateway/byte_range.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace slipway::gateway {
namespace {

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

ByteRange parse_range(std::string_view header, std::uint64_t size) {
  const ByteRange whole{.kind = ByteRange::Kind::kWhole, .first = 0, .count = size};
  if (!header.starts_with("bytes=") || header.contains(',')) return whole;
  header.remove_prefix(6);
  const std::size_t dash = header.find('-');
  if (dash == std::string_view::npos) return whole;
  const std::string_view from = header.substr(0, dash);
  const std::string_view to = header.substr(dash + 1);
  const ByteRange nothing{.kind = ByteRange::Kind::kUnsatisfiable, .first = 0, .count = 0};
  if (from.empty()) {
    const auto last = number(to);
    if (!last) return whole;
    if (*last == 0 || size == 0) return nothing;
    const std::uint64_t count = std::min(*last, size);
    return {.kind = ByteRange::Kind::kPart, .first = size - count, .count = count};
  }
  const auto first = number(from);
  const auto end = to.empty() ? std::optional(UINT64_MAX) : number(to);
  if (!first || !end || *end < *first) return whole;
  if (*first >= size) return nothing;
  return {.kind = ByteRange::Kind::kPart, .first = *first, .count = std::min(*end, size - 1) - *first + 1};
}

}  // namespace slipway::gateway

// The Range header of RFC 9110: one range of bytes. No I/O in here.
#pragma once

#include <cstdint>
#include <string_view>

namespace slipway::gateway {

struct ByteRange {
  enum class Kind { kWhole, kPart, kUnsatisfiable } kind = Kind::kWhole;
  std::uint64_t first = 0;  // of kPart and kWhole
  std::uint64_t count = 0;
};

// What `header` asks of a file of `size` bytes. No header, another unit, several ranges or one that does not parse: the
// whole file, as the RFC allows.
[[nodiscard]] ByteRange parse_range(std::string_view header, std::uint64_t size);

}  // namespace slipway::gateway

// The IDX format of MNIST: a magic number, big-endian dimensions, then the elements.
// Source: https://yann.lecun.com/exdb/mnist/, "THE IDX FILE FORMAT".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"

namespace slipway::dataset {

enum class IdxType : std::uint8_t { kU8 = 0x08, kI8 = 0x09, kI16 = 0x0B, kI32 = 0x0C, kF32 = 0x0D, kF64 = 0x0E };

inline constexpr std::size_t kMaxIdxDimensions = 8;
inline constexpr std::size_t kMaxIdxHeaderBytes = 4 + 4 * kMaxIdxDimensions;

struct IdxHeader {
  IdxType type = IdxType::kU8;
  std::vector<std::int64_t> shape;  // 1 to kMaxIdxDimensions dimensions, the rows first; a dimension may be 0
  std::size_t header_bytes = 0;
  std::uint64_t payload_bytes = 0;  // what must follow the header, exactly
};

// "u8", "f32", ...
[[nodiscard]] std::string idx_type_name(IdxType type);

// Reads the header at the front of `bytes`; the payload need not be there. Errors: kInvalidArgument (not IDX, an
// unknown element type, too many dimensions, cut off, a size over 2^62).
[[nodiscard]] Result<IdxHeader> parse_idx_header(std::span<const std::byte> bytes);

// Whether `payload_bytes` is what the header announces. Errors: kInvalidArgument (more or fewer came).
[[nodiscard]] Result<void> check_idx_payload(const IdxHeader& header, std::uint64_t payload_bytes);

// A whole file; `payload` views the bytes given. Elements of more than one byte are big-endian.
struct IdxView {
  IdxHeader header;
  std::span<const std::byte> payload;
};

// Errors: kInvalidArgument (as above).
[[nodiscard]] Result<IdxView> parse_idx(std::span<const std::byte> file);

}  // namespace slipway::dataset

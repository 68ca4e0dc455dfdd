#include "lib/dataset/idx.h"

#include <algorithm>
#include <format>

namespace slipway::dataset {
namespace {

std::size_t element_bytes(IdxType type) {
  switch (type) {
    case IdxType::kU8:
    case IdxType::kI8:
      return 1;
    case IdxType::kI16:
      return 2;
    case IdxType::kI32:
    case IdxType::kF32:
      return 4;
    case IdxType::kF64:
      return 8;
  }
  return 0;  // not an IdxType
}

// "60000x28x28", with the element size where it is not one byte.
std::string shape_text(const IdxHeader& header) {
  std::string text;
  for (const std::int64_t dimension : header.shape) text += (text.empty() ? "" : "x") + std::to_string(dimension);
  if (const auto bytes = element_bytes(header.type); bytes > 1) text += std::format(" of {} bytes each", bytes);
  return text;
}

}  // namespace

std::string idx_type_name(IdxType type) {
  switch (type) {
    case IdxType::kU8:
      return "u8";
    case IdxType::kI8:
      return "i8";
    case IdxType::kI16:
      return "i16";
    case IdxType::kI32:
      return "i32";
    case IdxType::kF32:
      return "f32";
    case IdxType::kF64:
      return "f64";
  }
  return std::format("0x{:02x}", static_cast<unsigned>(type));
}

Result<IdxHeader> parse_idx_header(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) {
    return fail(Code::kInvalidArgument,
                std::format("not an IDX file: {} bytes came, its header has at least 8", bytes.size()));
  }
  const auto at = [&](std::size_t i) { return std::to_integer<std::uint32_t>(bytes[i]); };
  if (at(0) != 0 || at(1) != 0) {
    return fail(Code::kInvalidArgument, std::format("not an IDX file: it begins with {:02x} {:02x} {:02x} {:02x}, "
                                                    "wanted 00 00, an element type and the number of dimensions",
                                                    at(0), at(1), at(2), at(3)));
  }
  IdxHeader header{.type = static_cast<IdxType>(at(2)), .shape = {}};
  std::uint64_t total = element_bytes(header.type);
  if (total == 0) {
    return fail(Code::kInvalidArgument,
                std::format("IDX element type 0x{:02x}, wanted 08, 09, 0b, 0c, 0d or 0e", at(2)));
  }
  const std::size_t dimensions = at(3);
  if (dimensions == 0 || dimensions > kMaxIdxDimensions) {
    return fail(Code::kInvalidArgument,
                std::format("an IDX file of {} dimensions, wanted 1 to {}", dimensions, kMaxIdxDimensions));
  }
  header.header_bytes = 4 + 4 * dimensions;
  if (bytes.size() < header.header_bytes) {
    return fail(Code::kInvalidArgument, std::format("cut off inside the IDX header: {} bytes came, it has {}",
                                                    bytes.size(), header.header_bytes));
  }
  for (std::size_t i = 0; i < dimensions; ++i) {
    const std::size_t from = 4 + 4 * i;
    header.shape.push_back(at(from) << 24 | at(from + 1) << 16 | at(from + 2) << 8 | at(from + 3));
  }
  // A dimension of 0 makes the file empty however large the others are.
  const bool empty = std::ranges::contains(header.shape, 0);
  for (const std::int64_t dimension : header.shape) {
    if (empty) break;
    if (__builtin_mul_overflow(total, static_cast<std::uint64_t>(dimension), &total) || total > 1ULL << 62) {
      return fail(Code::kInvalidArgument, std::format("announces {}, which no file can hold", shape_text(header)));
    }
  }
  header.payload_bytes = empty ? 0 : total;
  return header;
}

Result<void> check_idx_payload(const IdxHeader& header, std::uint64_t payload_bytes) {
  if (payload_bytes == header.payload_bytes) return {};
  return fail(Code::kInvalidArgument,
              std::format("announces {} = {} bytes, {} came", shape_text(header), header.payload_bytes, payload_bytes));
}

Result<IdxView> parse_idx(std::span<const std::byte> file) {
  auto header = parse_idx_header(file);
  if (!header) return std::unexpected(std::move(header).error());
  const auto payload = file.subspan(header->header_bytes);
  if (auto whole = check_idx_payload(*header, payload.size()); !whole) {
    return std::unexpected(std::move(whole).error());
  }
  return IdxView{.header = std::move(*header), .payload = payload};
}

}  // namespace slipway::dataset

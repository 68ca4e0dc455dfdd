#include "lib/tensor/shape.h"

namespace slipway {

Result<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  constexpr std::int64_t kMost = std::int64_t{1} << 62;
  std::int64_t count = 1;
  bool zero = false;
  for (const std::int64_t size : shape) {
    if (size < 0)
      return fail(Code::kInvalidArgument, std::format("shape {} has a negative dimension", to_string(shape)));
    if (size == 0) {
      zero = true;
    } else if (count > kMost / size) {
      return fail(Code::kInvalidArgument, std::format("shape {} has too many elements", to_string(shape)));
    } else {
      count *= size;
    }
  }
  return zero ? 0 : count;
}

std::string to_string(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += std::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

bool fits(std::span<const std::int64_t> shape, std::span<const std::int64_t> wanted) {
  if (shape.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (wanted[i] >= 0 && shape[i] != wanted[i]) return false;
  }
  return true;
}

}  // namespace slipway

// Tensors to torch and back. Header-only, for the services that link torch.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <cstring>
#include <format>
#include <optional>
#include <string>
#include <utility>

#include "lib/base/error.h"
#include "lib/tensor/dtype.h"
#include "lib/tensor/shape.h"
#include "lib/wire/frame.h"

namespace slipway {

// Undefined, of which torch makes no tensor, for an element type that this release does not know.
[[nodiscard]] inline c10::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return c10::kFloat;
    case DType::kF64:
      return c10::kDouble;
    case DType::kF16:
      return c10::kHalf;
    case DType::kBf16:
      return c10::kBFloat16;
    case DType::kI64:
      return c10::kLong;
    case DType::kI32:
      return c10::kInt;
    case DType::kI16:
      return c10::kShort;
    case DType::kI8:
      return c10::kChar;
    case DType::kU8:
      return c10::kByte;
    case DType::kB8:
      return c10::kBool;
  }
  return c10::ScalarType::Undefined;
}

// nullopt: an element type that Slipway does not carry (complex, quantized, ...).
[[nodiscard]] inline std::optional<DType> dtype_of(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat:
      return DType::kF32;
    case c10::kDouble:
      return DType::kF64;
    case c10::kHalf:
      return DType::kF16;
    case c10::kBFloat16:
      return DType::kBf16;
    case c10::kLong:
      return DType::kI64;
    case c10::kInt:
      return DType::kI32;
    case c10::kShort:
      return DType::kI16;
    case c10::kChar:
      return DType::kI8;
    case c10::kByte:
      return DType::kU8;
    case c10::kBool:
      return DType::kB8;
    default:
      return std::nullopt;
  }
}

// Bytes of a tensor with this concrete shape. Errors: kInvalidArgument (negative dimension, too large to count),
// kUnsupported (an element type that this release does not know).
[[nodiscard]] inline Result<std::int64_t> byte_count(const TensorSpec& spec) {
  if (!is_known(spec.dtype)) {
    return fail(Code::kUnsupported, std::format("tensor '{}' has data-type {}, which this release does not know",
                                                spec.name, dtype_name(spec.dtype)));
  }
  auto count = element_count(spec.shape);
  if (!count) return count;
  const auto size = static_cast<std::int64_t>(item_size(spec.dtype));
  if (*count > (std::int64_t{1} << 62) / size) {
    return fail(Code::kInvalidArgument, std::format("shape {} has too many bytes", to_string(spec.shape)));
  }
  return *count * size;
}

// Errors: kInvalidArgument (the frame's size is not what dtype and shape say), and byte_count's.
[[nodiscard]] inline Result<void> check_frame(const TensorSpec& spec, const Frame& frame) {
  auto bytes = byte_count(spec);
  if (!bytes) return std::unexpected(std::move(bytes).error());
  if (static_cast<std::uint64_t>(*bytes) != frame.size()) {
    return fail(Code::kInvalidArgument,
                std::format("tensor '{}' of {} {} has {} bytes, wanted {}", spec.name, dtype_name(spec.dtype),
                            to_string(spec.shape), frame.size(), *bytes));
  }
  return {};
}

// A CPU tensor of the frame's bytes. Large, aligned frames are not copied: the tensor keeps the frame's owner and must
// not be written to. Booleans are copied, so that every element is 0 or 1. Errors: as check_frame.
[[nodiscard]] inline Result<at::Tensor> to_torch(const TensorSpec& spec, const Frame& frame) {
  constexpr std::size_t kCopyBelow = 8192;  // a copy is cheaper than an owner
  if (auto right = check_frame(spec, frame); !right) return std::unexpected(std::move(right).error());
  const auto type = scalar_type(spec.dtype);
  const bool aligned = reinterpret_cast<std::uintptr_t>(frame.data()) % item_size(spec.dtype) == 0;
  if (spec.dtype != DType::kB8 && aligned && frame.size() >= kCopyBelow) {
    return at::from_blob(
        const_cast<std::byte*>(frame.data()), spec.shape, [owner = frame.owner()](void*) { static_cast<void>(owner); },
        at::TensorOptions(type));
  }
  at::Tensor tensor = at::empty(spec.shape, at::TensorOptions(type));
  if (spec.dtype == DType::kB8) {
    auto* to = static_cast<bool*>(tensor.data_ptr());
    for (std::size_t i = 0; i < frame.size(); ++i) to[i] = frame.data()[i] != std::byte{0};
  } else if (frame.size() > 0) {
    std::memcpy(tensor.data_ptr(), frame.data(), frame.size());
  }
  return tensor;
}

struct TensorBytes {
  TensorSpec spec;
  Frame frame;
};

// The tensor's elements in row-major order. A contiguous CPU tensor is not copied: the frame shares its memory, so
// nobody may write to the tensor any more. Errors: kUnsupported (not dense, not initialised, or an element type that
// Slipway does not carry); may throw what torch throws when it has to copy.
[[nodiscard]] inline Result<TensorBytes> from_torch(std::string name, const at::Tensor& tensor) {
  if (!tensor.defined()) return fail(Code::kUnsupported, std::format("tensor '{}' is not set", name));
  const auto dtype = dtype_of(tensor.scalar_type());
  if (!dtype || tensor.is_quantized()) {
    return fail(Code::kUnsupported,
                std::format("tensor '{}' has element type {}", name, c10::toString(tensor.scalar_type())));
  }
  if (tensor.layout() != c10::kStrided || tensor.is_meta() || tensor.is_nested()) {
    return fail(Code::kUnsupported, std::format("tensor '{}' is not dense", name));
  }
  const at::Tensor dense = tensor.detach().to(c10::kCPU).resolve_neg().contiguous();
  const std::span bytes(static_cast<const std::byte*>(dense.const_data_ptr()),
                        static_cast<std::size_t>(dense.nbytes()));
  return TensorBytes{.spec = {.name = std::move(name), .dtype = *dtype, .shape = dense.sizes().vec()},
                     .frame = Frame(bytes, std::make_shared<const at::Tensor>(dense))};
}

}  // namespace slipway

// Element types: their sizes and their names in Slipway, in the Open Inference Protocol and in TensorFlow.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "schema/records.h"

namespace slipway {

// False for one of a later release, which a record may have as its number: its size is given as 1, so that nobody
// divides by 0, and its names as "unknown(99)". Whoever would compute with it refuses it.
[[nodiscard]] bool is_known(DType dtype);

[[nodiscard]] std::size_t item_size(DType dtype);                               // bytes of one element
[[nodiscard]] std::string dtype_name(DType dtype);                              // "f32"
[[nodiscard]] std::string oip_name(DType dtype);                                // "FP32"
[[nodiscard]] std::string tensorflow_name(DType dtype);                         // "DT_FLOAT"
[[nodiscard]] std::optional<DType> dtype_from_name(std::string_view name);      // from "f32"
[[nodiscard]] std::optional<DType> dtype_from_oip_name(std::string_view name);  // from "FP32"

[[nodiscard]] constexpr bool is_floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 || dtype == DType::kBf16;
}

}  // namespace slipway

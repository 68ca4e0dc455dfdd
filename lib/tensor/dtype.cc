#include "lib/tensor/dtype.h"

#include <algorithm>
#include <array>
#include <format>

namespace slipway {
namespace {

struct Row {
  DType dtype;
  std::size_t size;
  std::string_view name, oip, tensorflow;
};

constexpr std::array kRows{
    Row{DType::kF32, 4, "f32", "FP32", "DT_FLOAT"},  Row{DType::kF64, 8, "f64", "FP64", "DT_DOUBLE"},
    Row{DType::kF16, 2, "f16", "FP16", "DT_HALF"},   Row{DType::kBf16, 2, "bf16", "BF16", "DT_BFLOAT16"},
    Row{DType::kI64, 8, "i64", "INT64", "DT_INT64"}, Row{DType::kI32, 4, "i32", "INT32", "DT_INT32"},
    Row{DType::kI16, 2, "i16", "INT16", "DT_INT16"}, Row{DType::kI8, 1, "i8", "INT8", "DT_INT8"},
    Row{DType::kU8, 1, "u8", "UINT8", "DT_UINT8"},   Row{DType::kB8, 1, "b8", "BOOL", "DT_BOOL"},
};

std::string name(DType dtype, std::string_view Row::* column) {
  if (is_known(dtype)) return std::string(kRows[static_cast<std::size_t>(dtype)].*column);
  return std::format("unknown({})", static_cast<unsigned>(dtype));
}

std::optional<DType> find(std::string_view wanted, std::string_view Row::* column) {
  const auto found = std::ranges::find(kRows, wanted, column);
  return found == kRows.end() ? std::nullopt : std::optional(found->dtype);
}

}  // namespace

bool is_known(DType dtype) { return static_cast<std::size_t>(dtype) < kRows.size(); }
std::size_t item_size(DType dtype) { return is_known(dtype) ? kRows[static_cast<std::size_t>(dtype)].size : 1; }
std::string dtype_name(DType dtype) { return name(dtype, &Row::name); }
std::string oip_name(DType dtype) { return name(dtype, &Row::oip); }
std::string tensorflow_name(DType dtype) { return name(dtype, &Row::tensorflow); }
std::optional<DType> dtype_from_name(std::string_view name) { return find(name, &Row::name); }
std::optional<DType> dtype_from_oip_name(std::string_view name) { return find(name, &Row::oip); }

}  // namespace slipway

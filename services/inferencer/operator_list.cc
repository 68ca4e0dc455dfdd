#include "services/inferencer/operator_list.h"

#include <algorithm>
#include <array>
#include <string>

namespace slipway::inferencer {
namespace {

// Made from what the names "relu", "conv2d" ... stand for in torch 2.6, less: forms that write to an `out`, take names
// of dimensions, generators or complex numbers; and what reads or writes outside of its tensors, or ends the process,
// for some arguments (promote_types, __interpolate, gcd of numbers ...). What does so for few arguments only stays and
// is guarded: operator_guards.h. Sorted.
constexpr auto kOperators = std::to_array<std::string_view>({
#include "services/inferencer/operators.inc"
});
static_assert(std::ranges::is_sorted(kOperators));

// Of nn.MultiheadAttention, nn.TransformerEncoder, the recurrent layers, interpolate() and batch normalization while it
// is trained.
constexpr auto kReplaced = std::to_array<std::string_view>(
    {"aten::_native_multi_head_attention", "aten::_nested_tensor_from_mask",
     "aten::_nested_tensor_from_mask_left_aligned", "aten::_pack_padded_sequence", "aten::_pad_packed_sequence",
     "aten::_transformer_encoder_layer_fwd", "aten::_upsample_bicubic2d_aa", "aten::_upsample_bicubic2d_aa.vec",
     "aten::_upsample_bilinear2d_aa", "aten::_upsample_bilinear2d_aa.vec", "aten::gru.data", "aten::lstm.data",
     "aten::native_batch_norm", "aten::rnn_relu.data", "aten::rnn_tanh.data", "aten::to_padded_tensor"});
static_assert(std::ranges::is_sorted(kReplaced));

constexpr auto kCallable =
    std::to_array<std::string_view>({"EnumName",      "EnumValue", "NumToTensor",  "RaiseException",
                                     "abs",           "device",    "dtype",        "is_cpu",
                                     "is_cuda",       "is_ipu",    "is_meta",      "is_mkldnn",
                                     "is_mps",        "is_nested", "is_quantized", "is_sparse",
                                     "is_vulkan",     "is_xla",    "is_xpu",       "itemsize",
                                     "layout",        "max",       "min",          "rangelist",
                                     "requires_grad", "type",      "index",        "unchecked_unwrap_optional"});

}  // namespace

bool is_allowed_operator(std::string_view full) { return std::ranges::binary_search(kOperators, full); }

std::span<const std::string_view> allowed_operators() { return kOperators; }

bool is_replaced_operator(std::string_view full) { return std::ranges::binary_search(kReplaced, full); }

bool is_allowed_name(std::string_view space, std::string_view name) {
  std::string full;
  full.append(space).append("::").append(name);
  if (is_replaced_operator(full)) return true;
  const auto found = std::ranges::lower_bound(kOperators, std::string_view(full));
  return found != kOperators.end() && found->starts_with(full) &&
         (found->size() == full.size() || (*found)[full.size()] == '.');
}

bool is_callable_name(std::string_view space, std::string_view name) {
  if (space == "aten") return is_allowed_name(space, name);
  return space == "prim" && std::ranges::contains(kCallable, name) && is_allowed_name(space, name);
}

}  // namespace slipway::inferencer

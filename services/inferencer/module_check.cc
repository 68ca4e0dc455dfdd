#include "services/inferencer/module_check.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <cstring>
#include <format>
#include <memory>

#include "services/inferencer/operator_list.h"

namespace slipway::inferencer {
namespace {

std::unexpected<Error> refused(std::string_view why) {
  return fail(Code::kInvalidArgument, std::format("the TorchScript file is refused: {}", why));
}

Result<void> check_tensor(const at::Tensor& tensor, const ScannedArchive& scanned) {
  if (!tensor.defined()) return {};
  if (tensor.layout() != at::kStrided || tensor.is_quantized()) return refused("it holds a sparse or quantized tensor");
  const auto bytes = tensor.storage().nbytes();
  std::int64_t last = tensor.storage_offset();
  bool empty = false;
  bool good = last >= 0;
  for (std::int64_t i = 0; good && i < tensor.dim(); ++i) {
    const std::int64_t size = tensor.sizes()[static_cast<std::size_t>(i)];
    const std::int64_t stride = tensor.strides()[static_cast<std::size_t>(i)];
    if (size == 0) empty = true;
    std::int64_t reach = 0;
    good = size >= 0 && stride >= 0 && !__builtin_mul_overflow(std::max<std::int64_t>(size - 1, 0), stride, &reach) &&
           !__builtin_add_overflow(last, reach, &last);
  }
  if (good && !empty) {
    std::int64_t end = 0;
    good = !__builtin_add_overflow(last, 1, &end) &&
           !__builtin_mul_overflow(end, static_cast<std::int64_t>(tensor.itemsize()), &end) &&
           static_cast<std::uint64_t>(end) <= bytes && std::ranges::binary_search(scanned.storage_bytes, bytes);
  }
  return good ? Result<void>{} : refused("it holds a tensor that reaches beyond its data");
}

Result<void> check_value(const c10::IValue& value, const ScannedArchive& scanned) {
  Result<void> result;
  value.visit([&](const c10::IValue& inner) {
    if (!result) return true;
    if (inner.isTensor()) result = check_tensor(inner.toTensor(), scanned);
    return !result;
  });
  return result;
}

Result<void> check_block(const torch::jit::Block& block, const ScannedArchive& scanned) {
  for (const torch::jit::Node* node : block.nodes()) {
    const auto kind = node->kind();
    const std::string_view name = kind.toUnqualString();
    const bool allowed = kind.is_aten() ? is_allowed_operator(name) : kind.is_prim() && is_allowed_primitive(name);
    if (!allowed) {
      return refused(
          std::format("it uses {}, which is not on the list of operators that a model may use", kind.toQualString()));
    }
    if (kind == c10::prim::Constant) {
      if (const auto value = torch::jit::toIValue(node->output())) {
        if (auto good = check_value(*value, scanned); !good) return good;
      }
    }
    for (const torch::jit::Block* inner : node->blocks()) {
      if (auto good = check_block(*inner, scanned); !good) return good;
    }
  }
  return {};
}

bool writes(const torch::jit::Block& block) {
  return std::ranges::any_of(block.nodes(), [](const torch::jit::Node* node) {
    return node->kind() == c10::prim::SetAttr ||
           std::ranges::any_of(node->blocks(), [](const auto* inner) { return writes(*inner); });
  });
}

// Calls `visit` with the inlined graph of every method of every submodule until it returns false.
template <class Visit>
void each_graph(const torch::jit::Module& module, Visit visit) {
  for (const torch::jit::Module& part : module.modules()) {
    for (const torch::jit::Method& method : part.get_methods()) {
      const auto graph = method.graph()->copy();
      torch::jit::Inline(*graph);
      if (!visit(*graph)) return;
    }
  }
}

}  // namespace

Result<void> check_same_archive(const std::string& path, const ScannedArchive& scanned) {
  caffe2::serialize::PyTorchStreamReader reader(path);
  bool same = reader.getAllRecords().size() == scanned.entries;
  for (auto entry = scanned.read.begin(); same && entry != scanned.read.end(); ++entry) {
    const auto [bytes, size] = reader.getRecord(entry->first);
    same = size == entry->second.size() && std::memcmp(bytes.get(), entry->second.data(), size) == 0;
  }
  return same ? Result<void>{} : refused("its zip archive can be read in two ways");
}

Result<void> check_module(const torch::jit::Module& module, const ScannedArchive& scanned) {
  if (auto good = check_value(c10::IValue(module._ivalue()), scanned); !good) return good;
  Result<void> result;
  each_graph(module, [&](const torch::jit::Graph& graph) {
    result = check_block(*graph.block(), scanned);
    return result.has_value();
  });
  return result;
}

bool writes_attributes(const torch::jit::Module& module) {
  bool found = false;
  each_graph(module, [&](const torch::jit::Graph& graph) {
    found = writes(*graph.block());
    return !found;
  });
  return found;
}

}  // namespace slipway::inferencer

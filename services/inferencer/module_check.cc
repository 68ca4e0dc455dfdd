#include "services/inferencer/module_check.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <format>
#include <memory>
#include <set>
#include <vector>

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

// Whether a loop's count comes from constants, shapes and arguments. A `while` counts to the largest number, and a file
// has a `for` that can be left early as a `while`.
bool is_bounded(const torch::jit::Value* count) {
  constexpr std::int64_t kMost = std::int64_t{1} << 32;
  constexpr std::array<std::string_view, 5> kShapes{"len", "size", "shape", "dim", "numel"};
  std::vector<const torch::jit::Value*> waiting{count};
  std::set<const torch::jit::Value*> seen;
  while (!waiting.empty()) {
    const auto* value = waiting.back();
    waiting.pop_back();
    if (!seen.insert(value).second) continue;
    const torch::jit::Node* node = value->node();
    const auto kind = node->kind();
    const std::size_t at = value->offset();
    if (kind == c10::prim::Constant) {
      const auto constant = torch::jit::toIValue(value);
      if (constant && constant->isInt() && constant->toInt() > kMost) return false;
    } else if (kind == c10::prim::Param) {
      const auto* block = node->owningBlock();
      const auto* owner = block->owningNode();
      if (owner == nullptr || owner->kind() != c10::prim::Loop) continue;  // a method's argument
      waiting.push_back(at == 0 ? owner->input(0) : owner->input(at + 1));
      if (at > 0) waiting.push_back(block->outputs()[at]);
    } else if (kind == c10::prim::Loop) {
      waiting.push_back(node->input(at + 2));
      waiting.push_back(node->blocks()[0]->outputs()[at + 1]);
    } else if (kind == c10::prim::If) {
      for (const auto* block : node->blocks()) waiting.push_back(block->outputs()[at]);
    } else if (!std::ranges::contains(kShapes, std::string_view(kind.toUnqualString()))) {
      for (const auto* input : node->inputs()) {
        if (input->type()->isSubtypeOf(*c10::TensorType::get())) return false;
        waiting.push_back(input);
      }
    }
  }
  return true;
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
    if (kind == c10::prim::Loop && !is_bounded(node->input(0))) {
      return refused(
          "it has a loop whose length depends on values, as a 'while' or a 'for' with a 'break' does; it may never "
          "end");
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

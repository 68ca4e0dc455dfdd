#include "services/inferencer/keeps_state.h"

#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace slipway::inferencer {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Value;

// Their results are new memory whatever their arguments are. Of others that is believed only when no argument lives
// longer than the call: several give an argument back although their schemas do not say so (dropout when it does
// nothing, type_as, einsum, meshgrid, to_dense).
constexpr std::array<std::string_view, 55> kAlwaysNew{
    "_convolution",
    "add",
    "addbmm",
    "addmm",
    "baddbmm",
    "batch_norm",
    "bmm",
    "cat",
    "clone",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
    "div",
    "embedding",
    "empty_like",
    "exp",
    "full_like",
    "gelu",
    "group_norm",
    "index_select",
    "instance_norm",
    "layer_norm",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "mm",
    "mul",
    "mv",
    "native_batch_norm",
    "native_group_norm",
    "native_layer_norm",
    "ones_like",
    "pow",
    "prelu",
    "rand_like",
    "randn_like",
    "relu",
    "rsqrt",
    "rsub",
    "scaled_dot_product_attention",
    "sigmoid",
    "softmax",
    "sqrt",
    "stack",
    "sub",
    "tanh",
    "zeros_like",
};

// They write to their running statistics when told to train, which their schemas do not say.
constexpr std::array<std::string_view, 6> kNormalisations{"batch_norm",        "_batch_norm_impl_index",
                                                          "cudnn_batch_norm",  "instance_norm",
                                                          "miopen_batch_norm", "native_batch_norm"};

bool is_aten(const Node& node, std::string_view name) {
  return node.kind().is_aten() && name == node.kind().toUnqualString();
}

template <std::size_t N>
bool is_aten(const Node& node, const std::array<std::string_view, N>& names) {
  return node.kind().is_aten() && std::ranges::contains(names, std::string_view(node.kind().toUnqualString()));
}

// Numbers and texts: nothing can be written to them.
bool is_plain(const Value& value) {
  switch (value.type()->kind()) {
    case c10::TypeKind::NoneType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::ComplexType:
    case c10::TypeKind::DeviceObjType:
      return true;
    default:
      return false;
  }
}

// Of one inlined graph. Attributes are taken to be what they are now: should the graph assign to one in a branch that
// can be reached, the answer is known without them.
class Analysis {
 public:
  explicit Analysis(const torch::jit::Module& module) : module_(module) {}

  bool writes(const Block& block) {
    return std::ranges::any_of(block.nodes(), [this](const Node* node) { return writes(*node); });
  }

 private:
  bool writes(const Node& node) {
    const auto kind = node.kind();
    if (kind == c10::prim::If) {
      if (const auto taken = condition(*node.input(0))) return writes(*node.blocks()[*taken ? 0 : 1]);
    }
    // What could not be inlined, or runs elsewhere, may do anything.
    if (kind == c10::prim::SetAttr || kind == c10::prim::CallMethod || kind == c10::prim::CallFunction ||
        kind == c10::prim::fork || node.hasAttribute(c10::attr::Subgraph)) {
      return true;
    }
    if (std::ranges::any_of(node.blocks(), [this](const Block* inner) { return writes(*inner); })) return true;
    // Afterwards its argument is another tensor's memory.
    if (is_aten(node, "set_") || is_aten(node, "set_data")) return true;
    const auto* schema = node.maybeSchema();
    if (schema == nullptr) return false;
    const auto& arguments = schema->arguments();
    const std::size_t count = std::min(arguments.size(), node.inputs().size());
    for (std::size_t i = 0; i < count; ++i) {
      const auto* alias = arguments[i].alias_info();
      if (alias != nullptr && alias->isWrite() && !is_fresh(*node.input(i))) return true;
    }
    return is_aten(node, kNormalisations) && trains(node, *schema);
  }

  bool trains(const Node& node, const c10::FunctionSchema& schema) {
    bool keeps = false;
    bool told = true;
    for (std::size_t i = 0; i < std::min(schema.arguments().size(), node.inputs().size()); ++i) {
      const auto& name = schema.arguments()[i].name();
      const Value& input = *node.input(i);
      if (name == "running_mean" || name == "running_var") {
        const auto value = constant(input);
        keeps |= !(value && value->isNone()) && !is_fresh(input);
      } else if (name == "training" || name == "train" || name == "use_input_stats") {
        told = condition(input).value_or(true);
      }
    }
    return keeps && told;
  }

  // Whether all that can be reached through the value was made in this call, or is an argument.
  bool is_fresh(const Value& value) {
    std::vector<const Value*> waiting{&value};
    std::unordered_set<const Value*> seen;
    while (!waiting.empty()) {
      const Value& next = *waiting.back();
      waiting.pop_back();
      if (is_plain(next) || !seen.insert(&next).second) continue;
      if (!add_sources(next, waiting)) return false;
    }
    return true;
  }

  // Adds the values that must be fresh for this one to be; false: it is not, whatever they are.
  bool add_sources(const Value& value, std::vector<const Value*>& sources) {
    const Node& node = *value.node();
    const auto kind = node.kind();
    const std::size_t at = value.offset();
    const auto add_all = [&] {
      sources.insert(sources.end(), node.inputs().begin(), node.inputs().end());
      return true;
    };
    if (kind == c10::prim::Param) {
      const Node* owner = node.owningBlock()->owningNode();
      if (owner == nullptr) return at > 0;  // a method's argument; the first one is the module
      if (owner->kind() != c10::prim::Loop || at == 0) return false;
      sources.insert(sources.end(), {owner->input(at + 1), node.owningBlock()->outputs()[at]});
      return true;
    }
    if (kind == c10::prim::If) {
      const auto taken = condition(*node.input(0));
      if (taken != false) sources.push_back(node.blocks()[0]->outputs()[at]);
      if (taken != true) sources.push_back(node.blocks()[1]->outputs()[at]);
      return true;
    }
    if (kind == c10::prim::Loop) {
      sources.insert(sources.end(), {node.input(at + 2), node.blocks()[0]->outputs()[at + 1]});
      return true;
    }
    if (kind == c10::prim::ListConstruct || kind == c10::prim::TupleConstruct || kind == c10::prim::DictConstruct ||
        kind == c10::prim::TupleUnpack || kind == c10::prim::TupleIndex || kind == c10::prim::TupleSlice ||
        kind == c10::prim::unchecked_cast || kind == c10::prim::unchecked_unwrap_optional) {
      return add_all();
    }
    if (kind == c10::prim::ListUnpack || is_aten(node, "__getitem__")) {
      sources.push_back(node.input(0));
      return stays_as_made(*node.input(0));
    }
    const auto* schema = node.maybeSchema();
    if (schema == nullptr || at >= schema->returns().size()) return false;
    const auto* alias = schema->returns()[at].alias_info();
    if (alias == nullptr) return is_aten(node, kAlwaysNew) || add_all();
    if (alias->isWildcardBefore() || alias->isWildcardAfter()) return false;
    if (alias->beforeSets().empty()) return add_all();
    for (std::size_t i = 0; i < std::min(schema->arguments().size(), node.inputs().size()); ++i) {
      const auto* source = schema->arguments()[i].alias_info();
      const bool shared = source != nullptr && std::ranges::any_of(source->beforeSets(), [&](c10::Symbol set) {
                            return alias->beforeSets().contains(set);
                          });
      if (shared) sources.push_back(node.input(i));
    }
    return true;
  }

  // Whether a list holds what it was made of: nobody writes to it, and it has no other name.
  bool stays_as_made(const Value& list) {
    const Node& maker = *list.node();
    if (maker.kind() != c10::prim::ListConstruct && !maker.kind().is_aten()) return false;
    return std::ranges::all_of(list.uses(), [](const torch::jit::Use& use) {
      const auto kind = use.user->kind();
      if (kind == c10::prim::ListUnpack) return true;
      const auto* schema = use.user->maybeSchema();
      if (schema == nullptr || !kind.is_aten() || use.offset >= schema->arguments().size()) return false;
      const auto* alias = schema->arguments()[use.offset].alias_info();
      return alias == nullptr || !alias->isWrite();
    });
  }

  std::optional<bool> condition(const Value& value, int depth = 0) {
    const auto found = constant(value, depth);
    return found && found->isBool() ? std::optional(found->toBool()) : std::nullopt;
  }

  // What the value is in every call, as far as constants, attributes and `is None` tell.
  std::optional<c10::IValue> constant(const Value& value, int depth = 0) {
    constexpr int kDeepest = 100;
    if (depth > kDeepest) return std::nullopt;
    if (const auto known = constants_.find(&value); known != constants_.end()) return known->second;
    auto found = find_constant(value, depth + 1);
    constants_.emplace(&value, found);
    return found;
  }

  std::optional<c10::IValue> find_constant(const Value& value, int depth) {
    const Node& node = *value.node();
    const auto kind = node.kind();
    if (kind == c10::prim::Param) {
      if (node.owningBlock()->owningNode() == nullptr && value.offset() == 0) return c10::IValue(module_._ivalue());
      return std::nullopt;
    }
    if (kind == c10::prim::Constant) return torch::jit::toIValue(&value);
    if (kind == c10::prim::unchecked_cast || kind == c10::prim::unchecked_unwrap_optional)
      return constant(*node.input(0), depth);
    if (kind == c10::prim::GetAttr) {
      const auto holder = constant(*node.input(0), depth);
      if (!holder || !holder->isObject()) return std::nullopt;
      const auto& object = holder->toObjectRef();
      const auto slot = object.type()->findAttributeSlot(node.s(c10::attr::name));
      return slot ? std::optional(object.getSlot(*slot)) : std::nullopt;
    }
    if (kind == c10::prim::If) {
      const auto taken = condition(*node.input(0), depth);
      return taken ? constant(*node.blocks()[*taken ? 0 : 1]->outputs()[value.offset()], depth) : std::nullopt;
    }
    if (is_aten(node, "__not__")) {
      const auto given = condition(*node.input(0), depth);
      return given ? std::optional<c10::IValue>(!*given) : std::nullopt;
    }
    const bool is = is_aten(node, "__is__");
    if (is || is_aten(node, "__isnot__")) {
      const auto left = constant(*node.input(0), depth);
      const auto right = constant(*node.input(1), depth);
      if (left && right && (left->isNone() || right->isNone()))
        return c10::IValue((left->isNone() && right->isNone()) == is);
    }
    return std::nullopt;
  }

  const torch::jit::Module& module_;
  std::unordered_map<const Value*, std::optional<c10::IValue>> constants_;
};

}  // namespace

bool keeps_state(const torch::jit::Module& module) {
  const auto method = module.find_method("forward");
  if (!method) return true;
  const auto graph = method->graph()->copy();
  torch::jit::Inline(*graph);
  return Analysis(module).writes(*graph->block());
}

}  // namespace slipway::inferencer

#include "services/inferencer/operator_guards.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <format>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/torch_runtime/memory_account.h"
#include "services/inferencer/operator_list.h"

namespace slipway::inferencer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;
using torch::jit::Value;

// --- What is checked. Each takes an argument and gives it back, or throws. ---

constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();

// As if the model had raised it: what its caller sent made it so.
template <class... Args>
void require(bool good, std::format_string<Args...> text, Args&&... args) {
  if (!good) throw torch::jit::JITException(std::format(text, std::forward<Args>(args)...));
}

void check_divisor(std::int64_t number, std::int64_t divisor) {
  require(divisor != 0, "ZeroDivisionError: integer division or modulo by zero");
  require(divisor != -1 || number != kMin, "OverflowError: {} divided by -1", number);
}

// Division of tensors ends the process only where the smallest number is divided by -1, or an integer by zero.
void check_divisor(const at::Tensor& number, const at::Tensor& divisor) {
  const auto type = at::result_type(number, divisor);
  if (!at::isIntegralType(type, false)) return;
  const auto by = divisor.to(type);
  require(!by.eq(0).any().item<bool>(), "ZeroDivisionError: integer division or modulo by zero");
  const auto minus = by.eq(-1);
  if (!minus.any().item<bool>()) return;
  const std::int64_t least = type == at::kLong    ? kMin
                             : type == at::kInt   ? std::numeric_limits<std::int32_t>::min()
                             : type == at::kShort ? std::numeric_limits<std::int16_t>::min()
                             : type == at::kChar  ? std::numeric_limits<std::int8_t>::min()
                                                  : 1;
  if (least == 1) return;  // unsigned
  require(!number.to(type).eq(least).logical_and(minus).any().item<bool>(), "OverflowError: {} divided by -1", least);
}

bool is_dtype(std::int64_t number) {
  constexpr std::array kTaken{at::kByte,  at::kChar,   at::kShort,        at::kInt,           at::kLong, at::kHalf,
                              at::kFloat, at::kDouble, at::kComplexFloat, at::kComplexDouble, at::kBool, at::kBFloat16};
  return std::ranges::any_of(kTaken, [&](at::ScalarType type) { return static_cast<std::int64_t>(type) == number; });
}
bool is_layout(std::int64_t number) { return number == static_cast<std::int64_t>(at::kStrided); }
bool is_memory_format(std::int64_t number) {
  return number >= 0 && number < static_cast<std::int64_t>(at::MemoryFormat::NumOptions);
}

// Resizing divides by it, and believes that what comes out is an index.
void check_scale(double scale) {
  constexpr double kMost = 1 << 20;
  require(scale >= 1 / kMost && scale <= kMost, "a scale of {}: wanted one from {} to {}", scale, 1 / kMost, kMost);
}

constexpr std::int64_t kMaxPad = std::int64_t{1} << 24;

// `dims` of 0: the operator itself looks at the number of dimensions.
void check_pads(const at::Tensor& tensor, at::ArrayRef<std::int64_t> pads, std::int64_t dims) {
  if (dims > 0) {
    require(std::ssize(pads) == 2 * dims, "padding has {} numbers, wanted {}", pads.size(), 2 * dims);
    require(tensor.dim() == dims + 1 || tensor.dim() == dims + 2, "the input of a padding of {} dimensions has {}",
            dims, tensor.dim());
  }
  for (const std::int64_t pad : pads) require(pad >= -kMaxPad && pad <= kMaxPad, "a padding of {}", pad);
}

void check_bounds(std::int64_t number, std::int64_t least, std::int64_t most) {
  require(number >= least && number <= most, "an argument of {}, wanted {} to {}", number, least, most);
}

// Recurrent layers: with oneDNN torch believes that all sizes fit.
struct Layers {
  std::int64_t gates;  // 4: long short-term memory, whose `state` is the output's and the cell's
  bool biased;
  std::int64_t count;
  bool both_ways;
  bool batch_first;
};
void check_layers(const at::Tensor& input, at::ArrayRef<at::Tensor> state, at::ArrayRef<at::Tensor> weights,
                  const Layers& layers) {
  constexpr std::int64_t kMost = 1024;
  const std::size_t states = layers.gates == 4 ? 2 : 1;
  require(layers.count > 0 && layers.count <= kMost, "a recurrent layer with {} layers", layers.count);
  require(input.dim() == 3 && state.size() == states, "the input of a recurrent layer has {} dimensions, {} states",
          input.dim(), state.size());
  const std::int64_t ways = layers.both_ways ? 2 : 1;
  const std::int64_t rows = input.size(layers.batch_first ? 0 : 1);
  for (const at::Tensor& part : state) {
    require(part.defined() && part.dim() == 3 && part.size(0) == layers.count * ways && part.size(1) == rows,
            "the state of a recurrent layer does not fit its input");
  }
  const std::int64_t out = state[0].size(2);
  const std::int64_t hidden = state[states - 1].size(2);
  const bool projected = out != hidden;
  const std::int64_t each = 2 + (layers.biased ? 2 : 0) + (projected ? 1 : 0);
  require(std::ssize(weights) == layers.count * ways * each, "a recurrent layer of {} layers has {} weights",
          layers.count, weights.size());
  std::size_t at = 0;
  const auto next = [&](std::initializer_list<std::int64_t> shape) {
    const at::Tensor& weight = weights[at++];
    require(weight.defined() && weight.sizes() == at::IntArrayRef(shape) && weight.scalar_type() == input.scalar_type(),
            "a weight of a recurrent layer does not fit");
  };
  for (std::int64_t layer = 0; layer < layers.count; ++layer) {
    for (std::int64_t way = 0; way < ways; ++way) {
      next({layers.gates * hidden, layer == 0 ? input.size(2) : out * ways});
      next({layers.gates * hidden, out});
      if (layers.biased) {
        next({layers.gates * hidden});
        next({layers.gates * hidden});
      }
      if (projected) next({out, hidden});
    }
  }
}

// Leaves the weights.
void check_layers(Stack& stack, bool many_states) {
  Layers layers{};
  layers.gates = torch::jit::pop(stack).toInt();
  layers.batch_first = torch::jit::pop(stack).toBool();
  layers.both_ways = torch::jit::pop(stack).toBool();
  layers.count = torch::jit::pop(stack).toInt();
  layers.biased = torch::jit::pop(stack).toBool();
  auto weights = torch::jit::pop(stack);
  const auto state = torch::jit::pop(stack);
  const auto input = torch::jit::pop(stack).toTensor();
  const auto states = many_states ? state.toTensorVector() : std::vector{state.toTensor()};
  check_layers(input, states, weights.toTensorVector(), layers);
  stack.push_back(std::move(weights));
}

template <bool (*is_good)(std::int64_t)>
void check_option(Stack& stack, const char* what) {
  const c10::IValue& value = stack.back();
  require(value.isNone() || is_good(value.toInt()), "{} is not a {} that is known here",
          value.isNone() ? 0 : value.toInt(), what);
}

struct Registration {
  const char* schema;
  void (*run)(Stack&);
};

constexpr auto kGuards = std::to_array<Registration>({
    {"slipway::divisor.int(int number, int divisor) -> int",
     [](Stack& stack) {
       const auto divisor = torch::jit::pop(stack).toInt();
       check_divisor(torch::jit::pop(stack).toInt(), divisor);
       stack.emplace_back(divisor);
     }},
    {"slipway::divisor.Tensor(Tensor number, Tensor(a) divisor) -> Tensor(a)",
     [](Stack& stack) {
       auto divisor = torch::jit::pop(stack).toTensor();
       check_divisor(torch::jit::pop(stack).toTensor(), divisor);
       stack.emplace_back(std::move(divisor));
     }},
    {"slipway::divisor.Tensor_Scalar(Tensor number, Scalar divisor) -> Scalar",
     [](Stack& stack) {
       const auto divisor = torch::jit::pop(stack).toScalar();
       const auto number = torch::jit::pop(stack).toTensor();
       if (at::isIntegralType(number.scalar_type(), true) && divisor.isIntegral(true))
         check_divisor(number, at::native::wrapped_scalar_tensor(divisor));
       stack.emplace_back(divisor);
     }},
    {"slipway::divisor.Scalar_Tensor(Scalar number, Tensor(a) divisor) -> Tensor(a)",
     [](Stack& stack) {
       auto divisor = torch::jit::pop(stack).toTensor();
       check_divisor(at::native::wrapped_scalar_tensor(torch::jit::pop(stack).toScalar()), divisor);
       stack.emplace_back(std::move(divisor));
     }},
    {"slipway::divisor.Scalar(Scalar number, Scalar divisor) -> Scalar",
     [](Stack& stack) {
       const auto divisor = torch::jit::pop(stack);
       const auto number = torch::jit::pop(stack);
       if (number.isInt() && divisor.isInt()) check_divisor(number.toInt(), divisor.toInt());
       stack.push_back(divisor);
     }},
    {"slipway::dtype(int? number) -> int?", [](Stack& stack) { check_option<is_dtype>(stack, "data type"); }},
    {"slipway::layout(int? number) -> int?", [](Stack& stack) { check_option<is_layout>(stack, "layout"); }},
    {"slipway::memory_format(int? number) -> int?",
     [](Stack& stack) { check_option<is_memory_format>(stack, "memory format"); }},
    // torch looks for a data type where neither was given.
    {"slipway::copied(bool copy, Device? device, int? dtype) -> bool",
     [](Stack& stack) {
       const bool dtype = !torch::jit::pop(stack).isNone();
       const bool device = !torch::jit::pop(stack).isNone();
       require(dtype || device || !stack.back().toBool(),
               "'to' is to copy, but with neither a device nor a data type; 'clone' copies");
     }},
    // Reads as many values as there are keys, or the other way round.
    {"slipway::values(Tensor keys, Tensor(a) values) -> Tensor(a)",
     [](Stack& stack) {
       auto values = torch::jit::pop(stack).toTensor();
       const auto keys = torch::jit::pop(stack).toTensor();
       require(keys.dim() >= 2 && values.dim() == keys.dim() && keys.size(-2) == values.size(-2),
               "attention over {} dimensions of keys and {} of values, of other lengths", keys.dim(), values.dim());
       stack.emplace_back(std::move(values));
     }},
    {"slipway::scale(float? scale) -> float?",
     [](Stack& stack) {
       if (!stack.back().isNone()) check_scale(stack.back().toDouble());
     }},
    {"slipway::scales(float[]? scales) -> float[]?",
     [](Stack& stack) {
       if (stack.back().isNone()) return;
       for (const double scale : stack.back().toDoubleVector()) check_scale(scale);
     }},
    {"slipway::pads(Tensor tensor, int[] pads, int dims) -> int[]",
     [](Stack& stack) {
       const auto dims = torch::jit::pop(stack).toInt();
       auto pads = torch::jit::pop(stack);
       check_pads(torch::jit::pop(stack).toTensor(), pads.toIntVector(), dims);
       stack.push_back(std::move(pads));
     }},
    {"slipway::layers.many(Tensor input, Tensor[] state, Tensor[] weights, bool biased, int count, bool both_ways, "
     "bool "
     "batch_first, int gates) -> Tensor[]",
     [](Stack& stack) { check_layers(stack, true); }},
    {"slipway::layers(Tensor input, Tensor state, Tensor[] weights, bool biased, int count, bool both_ways, bool "
     "batch_first, int gates) -> Tensor[]",
     [](Stack& stack) { check_layers(stack, false); }},
    // With the round's number, so that it is not worked out beforehand.
    {"slipway::room(bool more, int round) -> bool",
     [](Stack& stack) {
       torch::jit::drop(stack, 1);
       MemoryAccount::check_limit();
     }},
    {"slipway::bounded(int number, int least, int most) -> int",
     [](Stack& stack) {
       const auto most = torch::jit::pop(stack).toInt();
       const auto least = torch::jit::pop(stack).toInt();
       check_bounds(stack.back().toInt(), least, most);
     }},
});

std::vector<std::optional<torch::jit::Operator>> operators() {
  std::vector<std::optional<torch::jit::Operator>> all;
  all.reserve(kGuards.size());
  for (const Registration& guard : kGuards)
    all.emplace_back(std::in_place, std::string(guard.schema), torch::jit::Operation(guard.run),
                     c10::AliasAnalysisKind::FROM_SCHEMA);
  return all;
}
const torch::jit::RegisterOperators kRegistered(operators());

// --- Where. ---

constexpr auto kDivisions = std::to_array<std::string_view>({
    "aten::div.Scalar_mode",      "aten::div.Tensor_mode",
    "aten::div_.Scalar_mode",     "aten::div_.Tensor_mode",
    "aten::divide.Scalar_mode",   "aten::divide.Tensor_mode",
    "aten::divide_.Scalar_mode",  "aten::divide_.Tensor_mode",
    "aten::divmod.int",           "aten::floor_divide",
    "aten::floor_divide.Scalar",  "aten::floor_divide_.Scalar",
    "aten::floor_divide_.Tensor", "aten::floordiv",
    "aten::floordiv.int",         "aten::fmod.Scalar",
    "aten::fmod.Tensor",          "aten::fmod_.Scalar",
    "aten::fmod_.Tensor",         "aten::remainder",
    "aten::remainder.Scalar",     "aten::remainder.Scalar_Tensor",
    "aten::remainder.Tensor",     "aten::remainder.int",
    "aten::remainder_.Scalar",    "aten::remainder_.Tensor",
});

struct Bounds {
  std::string_view op;
  std::size_t argument;
  std::int64_t least;
  std::int64_t most;
};
constexpr std::array kBounds{
    Bounds{"aten::channel_shuffle", 1, 1, 1 << 20},
    Bounds{"aten::pixel_shuffle", 1, 1, 1 << 12},
    Bounds{"aten::pixel_unshuffle", 1, 1, 1 << 12},
    Bounds{"aten::matrix_power", 1, -(1 << 20), 1 << 20},
    Bounds{"aten::linalg_matrix_power", 1, -(1 << 20), 1 << 20},
    Bounds{"aten::grid_sampler", 2, 0, 2},
    Bounds{"aten::grid_sampler", 3, 0, 2},
    Bounds{"aten::grid_sampler_2d", 2, 0, 2},
    Bounds{"aten::grid_sampler_2d", 3, 0, 2},
    Bounds{"aten::grid_sampler_3d", 2, 0, 2},
    Bounds{"aten::grid_sampler_3d", 3, 0, 2},
    Bounds{"prim::rangelist", 0, kMin, 1 << 24},
    Bounds{"aten::mul.left_t", 1, kMin, 1 << 24},
    Bounds{"aten::mul.right_", 0, kMin, 1 << 24},
    Bounds{"aten::mul_.t", 1, kMin, 1 << 24},
};

// Where its `device`, `dtype` and `copy` stand; 0: it has none.
struct Conversion {
  std::string_view op;
  std::size_t device;
  std::size_t dtype;
  std::size_t copy;
};
constexpr std::array kConversions{Conversion{"aten::to.prim_Device", 1, 2, 4},
                                  Conversion{"aten::to.prim_dtype", 0, 1, 3},
                                  Conversion{"aten::to.prim_other", 0, 0, 2}};

struct Pads {
  std::string_view op;
  std::int64_t dims;
};
constexpr std::array kPads{
    Pads{"aten::_pad_circular", 0},     Pads{"aten::_pad_enum", 0},
    Pads{"aten::constant_pad_nd", 0},   Pads{"aten::pad", 0},
    Pads{"aten::reflection_pad1d", 1},  Pads{"aten::reflection_pad2d", 2},
    Pads{"aten::reflection_pad3d", 3},  Pads{"aten::replication_pad1d", 1},
    Pads{"aten::replication_pad2d", 2}, Pads{"aten::replication_pad3d", 3},
};

struct Recurrent {
  std::string_view op;
  std::int64_t gates;
};
constexpr std::array kRecurrent{Recurrent{"aten::gru.input", 3}, Recurrent{"aten::lstm.input", 4},
                                Recurrent{"aten::rnn_relu.input", 1}, Recurrent{"aten::rnn_tanh.input", 1}};

// What an argument that torch writes as a plain number stands for.
struct Option {
  const char* guard;
  bool (*is_good)(std::int64_t);
};
std::optional<Option> option_of(const c10::Argument& argument) {
  c10::TypePtr type = argument.real_type();
  if (const auto optional = type->cast<c10::OptionalType>()) type = optional->getElementType();
  switch (type->kind()) {
    case c10::TypeKind::ScalarTypeType:
      return Option{"slipway::dtype", is_dtype};
    case c10::TypeKind::LayoutType:
      return Option{"slipway::layout", is_layout};
    case c10::TypeKind::MemoryFormatType:
      return Option{"slipway::memory_format", is_memory_format};
    case c10::TypeKind::IntType:
      if (argument.name() == "dtype") return Option{"slipway::dtype", is_dtype};
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::string full_name(const c10::FunctionSchema& schema) {
  return schema.overload_name().empty() ? schema.name() : schema.name() + "." + schema.overload_name();
}

// `argument` of `node` goes through `guard` first, as its input `at`.
void insert(Node& node, std::size_t argument, const char* guard, std::vector<Value*> inputs) {
  Value* value = node.input(argument);
  Node* check = node.owningGraph()->create(c10::Symbol::fromQualString(guard), inputs, 1);
  check->output()->setType(value->type());
  check->insertBefore(&node);
  node.replaceInput(argument, check->output());
}

Value* constant(Node& node, const c10::IValue& value) {
  const torch::jit::WithInsertPoint here(&node);
  return node.owningGraph()->insertConstant(value);
}

Result<void> guard_node(Node& node) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return {};
  const std::string name = full_name(*schema);
  for (const Bounds& bounds : kBounds) {
    if (bounds.op != name) continue;
    insert(node, bounds.argument, "slipway::bounded",
           {node.input(bounds.argument), constant(node, bounds.least), constant(node, bounds.most)});
  }
  if (!node.kind().is_aten()) return {};
  if (std::ranges::binary_search(kDivisions, name)) insert(node, 1, "slipway::divisor", {node.input(0), node.input(1)});
  if (name == "aten::scaled_dot_product_attention") insert(node, 2, "slipway::values", {node.input(1), node.input(2)});
  if (const auto pads = std::ranges::find(kPads, name, &Pads::op); pads != kPads.end())
    insert(node, 1, "slipway::pads", {node.input(0), node.input(1), constant(node, pads->dims)});
  if (const auto layer = std::ranges::find(kRecurrent, name, &Recurrent::op); layer != kRecurrent.end()) {
    insert(node, 2, "slipway::layers",
           {node.input(0), node.input(1), node.input(2), node.input(3), node.input(4), node.input(7), node.input(8),
            constant(node, layer->gates)});
  }
  if (const auto to = std::ranges::find(kConversions, name, &Conversion::op); to != kConversions.end()) {
    const auto given = [&](std::size_t at) { return at == 0 ? constant(node, c10::IValue()) : node.input(at); };
    insert(node, to->copy, "slipway::copied", {node.input(to->copy), given(to->device), given(to->dtype)});
  }
  const auto& arguments = schema->arguments();
  const bool resizes = name.starts_with("aten::upsample_") || name.starts_with("aten::_upsample_");
  for (std::size_t i = 0; i < arguments.size() && i < node.inputs().size(); ++i) {
    if (resizes && arguments[i].name() == "scale_factors") {
      insert(node, i, "slipway::scales", {node.input(i)});
    } else if (resizes && arguments[i].name().starts_with("scales")) {
      insert(node, i, "slipway::scale", {node.input(i)});
    }
    const auto option = option_of(arguments[i]);
    if (!option) continue;
    const Value* value = node.input(i);
    if (const auto known = torch::jit::toIValue(value)) {
      if (known->isNone() || (known->isInt() && option->is_good(known->toInt()))) continue;
      return fail(Code::kInvalidArgument,
                  std::format("the TorchScript file is refused: it calls {} with a {} that is not known here", name,
                              arguments[i].name()));
    }
    if (value->node()->kind() == c10::prim::dtype) continue;
    insert(node, i, option->guard, {node.input(i)});
  }
  return {};
}

// Whoever takes the branch with `node` gets an exception.
void replace_with_exception(Node& node) {
  torch::jit::Graph& graph = *node.owningGraph();
  const torch::jit::WithInsertPoint here(&node);
  Value* what = graph.insertConstant(std::format("{} is not run here", node.kind().toQualString()));
  graph.insertNode(graph.create(c10::prim::RaiseException, {what, graph.insertConstant(c10::IValue())}, 0));
  for (Value* output : node.outputs()) {
    output->replaceAllUsesWith(graph.insertNode(graph.createUninitialized(output->type()))->output());
  }
  node.destroy();
}

// A loop is where many small things are made, each of which alone is refused by nobody.
void guard_loop(Node& loop) {
  torch::jit::Block& body = *loop.blocks()[0];
  Node* check = loop.owningGraph()->create(c10::Symbol::fromQualString("slipway::room"),
                                           {body.outputs()[0], body.inputs()[0]}, 1);
  check->output()->setType(c10::BoolType::get());
  check->insertBefore(body.return_node());
  body.replaceOutput(0, check->output());
}

Result<void> guard_block(torch::jit::Block& block) {
  for (auto at = block.nodes().begin(); at != block.nodes().end();) {
    Node* node = *at++;
    // Lines of a stranger's wording in the log.
    if (node->kind() == c10::aten::warn) {
      node->destroy();
      continue;
    }
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (schema != nullptr && is_replaced_operator(full_name(*schema))) {
      replace_with_exception(*node);
      continue;
    }
    // Scripted attention takes its plain path under autocast, and its fast one is among the replaced.
    if (node->kind() == c10::Symbol::aten("is_autocast_enabled")) {
      const torch::jit::WithInsertPoint here(node);
      node->output()->replaceAllUsesWith(node->owningGraph()->insertConstant(true));
      node->destroy();
      continue;
    }
    if (auto good = guard_node(*node); !good) return good;
    for (torch::jit::Block* inner : node->blocks()) {
      if (auto good = guard_block(*inner); !good) return good;
    }
    if (node->kind() == c10::prim::Loop) guard_loop(*node);
  }
  return {};
}

}  // namespace

Result<void> guard_operators(torch::jit::Graph& graph) { return guard_block(*graph.block()); }

Result<void> guard_operators(const torch::jit::Module& module) {
  const auto unit = module._ivalue()->compilation_unit();
  // By number: looking at a function may compile others.
  for (std::size_t i = 0; i < unit->get_functions().size(); ++i) {
    torch::jit::Function* function = unit->get_functions()[i];
    auto* graph_function = torch::jit::tryToGraphFunction(*function);
    if (graph_function == nullptr) continue;
    if (auto good = guard_operators(*graph_function->graph()); !good) return good;
  }
  return {};
}

}  // namespace slipway::inferencer

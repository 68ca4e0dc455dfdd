#include "services/inferencer/module_check.h"

#include <caffe2/serialize/file_adapter.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <format>
#include <memory>
#include <set>
#include <string>
#include <utility>
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

// Everything that a value holds, against the type that the code believes it has: the compiler reads slots by number.
class ValueCheck {
 public:
  explicit ValueCheck(const ScannedArchive& scanned) : scanned_(scanned) {}

  // Errors: kInvalidArgument. `depth` is bounded by the scan of the pickles.
  Result<void> check(const c10::IValue& value, const c10::TypePtr& type) {
    if (value.isPtrType() && !value.isTensor() && !seen_.emplace(value.internalToPointer(), type.get()).second)
      return {};
    switch (type->kind()) {
      case c10::TypeKind::TensorType:
        return value.isTensor() ? check_tensor(value.toTensor(), scanned_) : unlike(value, type);
      case c10::TypeKind::IntType:
        return value.isInt() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::FloatType:
        return value.isDouble() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::BoolType:
        return value.isBool() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::ComplexType:
        return value.isComplexDouble() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::NumberType:
        return value.isScalar() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::StringType:
        return value.isString() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::NoneType:
        return value.isNone() ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::DeviceObjType:
        return check_device(value, type);
      case c10::TypeKind::EnumType:
        return value.isEnum() && *value.toEnumHolder()->type() == *type ? Result<void>{} : unlike(value, type);
      case c10::TypeKind::OptionalType:
        return value.isNone() ? Result<void>{} : check(value, type->containedType(0));
      case c10::TypeKind::UnionType:
        return check_any_of(value, type);
      case c10::TypeKind::AnyType:
        return check_any(value);
      case c10::TypeKind::ListType:
        return check_list(value, type);
      case c10::TypeKind::DictType:
        return check_dict(value, type);
      case c10::TypeKind::TupleType:
        return check_tuple(value, type);
      case c10::TypeKind::ClassType:
        return check_object(value, type);
      case c10::TypeKind::FunctionType:  // of the code, not of the pickles
        return {};
      default:
        return refused(std::format("it holds a {}, which a model does not need", type->annotation_str()));
    }
  }

 private:
  static std::unexpected<Error> unlike(const c10::IValue& value, const c10::TypePtr& type) {
    return refused(std::format("it holds a {} where its code says {}", value.tagKind(), type->annotation_str()));
  }

  static Result<void> check_device(const c10::IValue& value, const c10::TypePtr& type) {
    if (!value.isDevice()) return unlike(value, type);
    if (value.toDevice().is_cpu()) return {};
    return refused(std::format("it names device '{}'; models run on the CPU here", value.toDevice().str()));
  }

  Result<void> check_any_of(const c10::IValue& value, const c10::TypePtr& type) {
    for (const auto& inner : type->containedTypes()) {
      if (ValueCheck(scanned_).check(value, inner)) return {};
    }
    return unlike(value, type);
  }

  // What it says itself to be.
  Result<void> check_any(const c10::IValue& value) {
    if (value.isObject() || value.isList() || value.isGenericDict() || value.isTuple() || value.isTensor() ||
        value.isEnum() || value.isDevice())
      return check(value, value.type());
    if (value.isNone() || value.isScalar() || value.isString()) return {};
    return refused(std::format("it holds a {}, which a model does not need", value.tagKind()));
  }

  Result<void> check_list(const c10::IValue& value, const c10::TypePtr& type) {
    if (!value.isList() || *value.toList().elementType() != *type->containedType(0)) return unlike(value, type);
    for (const c10::IValue& item : value.toListRef()) {
      if (auto good = check(item, type->containedType(0)); !good) return good;
    }
    return {};
  }

  Result<void> check_dict(const c10::IValue& value, const c10::TypePtr& type) {
    if (!value.isGenericDict()) return unlike(value, type);
    const auto dict = value.toGenericDict();
    if (*dict.keyType() != *type->containedType(0) || *dict.valueType() != *type->containedType(1))
      return unlike(value, type);
    for (const auto& entry : dict) {
      if (auto good = check(entry.key(), type->containedType(0)); !good) return good;
      if (auto good = check(entry.value(), type->containedType(1)); !good) return good;
    }
    return {};
  }

  Result<void> check_tuple(const c10::IValue& value, const c10::TypePtr& type) {
    if (!value.isTuple()) return unlike(value, type);
    const auto& items = value.toTupleRef().elements();
    if (items.size() != type->containedTypes().size()) return unlike(value, type);
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (auto good = check(items[i], type->containedType(i)); !good) return good;
    }
    return {};
  }

  Result<void> check_object(const c10::IValue& value, const c10::TypePtr& type) {
    if (!value.isObject()) return unlike(value, type);
    const auto object = value.toObject();
    const auto declared = type->expect<c10::ClassType>();
    if (*object->type() != *declared || object->slots().size() != declared->numAttributes()) return unlike(value, type);
    if (declared->name() && declared->name()->qualifiedName().starts_with("__torch__.torch.classes."))
      return refused("it holds an object of torch's own classes");
    for (std::size_t i = 0; i < declared->numAttributes(); ++i) {
      if (auto good = check(object->getSlot(i), declared->getAttribute(i)); !good) return good;
    }
    return {};
  }

  const ScannedArchive& scanned_;
  std::set<std::pair<const void*, const c10::Type*>> seen_;  // values may be shared, many times over
};

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

std::string full_name(const torch::jit::Node& node) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr || schema->overload_name().empty()) return node.kind().toQualString();
  return std::format("{}.{}", node.kind().toQualString(), schema->overload_name());
}

// Whether reading a value of this type goes by position, so that one of another shape would be read beyond its end.
bool holds_positions(const c10::TypePtr& type) {
  if (type->kind() == c10::TypeKind::ClassType || type->kind() == c10::TypeKind::TupleType) return true;
  return std::ranges::any_of(type->containedTypes(), [](const auto& inner) { return holds_positions(inner); });
}

// "This optional is there", "this union is that": the compiler writes so, and whoever writes the file may claim it of
// anything.
bool is_honest_cast(const torch::jit::Node& node) {
  const auto& from = node.input(0)->type();
  const auto& to = node.output()->type();
  if (!holds_positions(to) || *from == *to || from->kind() == c10::TypeKind::NoneType) return true;
  const auto optional = from->cast<c10::OptionalType>();
  return optional != nullptr && *optional->getElementType() == *to;
}

bool is_within_tuple(const torch::jit::Node& node) {
  const auto tuple = node.input(0)->type()->cast<c10::TupleType>();
  const auto index = torch::jit::toIValue(node.input(1));
  if (tuple == nullptr || !index || !index->isInt()) return false;
  const auto size = static_cast<std::int64_t>(tuple->elements().size());
  return index->toInt() >= -size && index->toInt() < size;
}

bool is_whole_tuple(const torch::jit::Node& node) {
  const auto tuple = node.input(0)->type()->cast<c10::TupleType>();
  return tuple != nullptr && tuple->elements().size() == node.outputs().size();
}

// x.tolist(): its second argument is the depth of the list that comes out, its third says what is in it.
bool is_honest_list(const torch::jit::Node& node) {
  if (node.inputs().size() != 3 || !node.input(0)->type()->isSubtypeOf(*c10::TensorType::get())) return false;
  const auto depth = torch::jit::toIValue(node.input(1));
  const auto item = torch::jit::toIValue(node.input(2));
  if (!depth || !depth->isInt() || !item || !item->isInt()) return false;
  c10::TypePtr type = node.output()->type();
  std::int64_t found = 0;
  for (; type->kind() == c10::TypeKind::ListType; type = type->containedType(0)) ++found;
  const std::int64_t kind = type->kind() == c10::TypeKind::IntType     ? 0
                            : type->kind() == c10::TypeKind::FloatType ? 1
                            : type->kind() == c10::TypeKind::BoolType  ? 2
                                                                       : -1;
  return depth->toInt() == found && item->toInt() == kind;
}

// Memory that nobody has written to may hold what others sent: it is filled at once, or not taken.
bool is_filled_at_once(const torch::jit::Node& node) {
  const auto& uses = node.output()->uses();
  return uses.size() == 1 && uses[0].user->kind() == c10::Symbol::aten("random_") && uses[0].offset == 0;
}

bool is_cpu(const torch::jit::Node& node) {
  const auto name = torch::jit::toIValue(node.input(0));
  return name && name->isString() && name->toStringRef() == "cpu";
}

// What is allowed only as the compiler writes it. Empty: `node` is good.
std::string fault_of(const torch::jit::Node& node) {
  const auto kind = node.kind();
  if (kind == c10::prim::unchecked_cast && !is_honest_cast(node)) return "a cast to another class or tuple";
  if (kind == c10::prim::TupleIndex && !is_within_tuple(node)) return "an index beyond a tuple";
  if (kind == c10::prim::TupleUnpack && !is_whole_tuple(node)) return "a tuple of another size";
  if (kind == c10::prim::tolist && !is_honest_list(node)) return "a list of another type than its tensor";
  if (kind == c10::aten::empty_like && !is_filled_at_once(node)) return "memory that nobody has written to";
  if (kind == c10::aten::device && !is_cpu(node)) return "another device than the CPU";
  return {};
}

Result<void> check_block(const torch::jit::Block& block, const ScannedArchive& scanned) {
  for (const torch::jit::Node* node : block.nodes()) {
    const auto kind = node->kind();
    if (const auto name = full_name(*node); !is_allowed_operator(name) && !is_replaced_operator(name)) {
      return refused(std::format("it uses {}, which is not on the list of operators that a model may use", name));
    }
    if (kind == c10::prim::Loop && !is_bounded(node->input(0))) {
      return refused(
          "it has a loop whose length depends on values, as a 'while' or a 'for' with a 'break' does; it may never "
          "end");
    }
    if (const auto fault = fault_of(*node); !fault.empty()) return refused(std::format("it uses {}", fault));
    if (kind == c10::prim::Constant) {
      if (const auto value = torch::jit::toIValue(node->output())) {
        if (auto good = ValueCheck(scanned).check(*value, node->output()->type()); !good) return good;
      }
    }
    for (const torch::jit::Block* inner : node->blocks()) {
      if (auto good = check_block(*inner, scanned); !good) return good;
    }
  }
  return {};
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
  caffe2::serialize::PyTorchStreamReader reader(std::make_unique<caffe2::serialize::FileAdapter>(path));
  bool same = reader.getAllRecords().size() == scanned.entries;
  for (auto entry = scanned.read.begin(); same && entry != scanned.read.end(); ++entry) {
    const auto [bytes, size] = reader.getRecord(entry->first);
    same = size == entry->second.size() && std::memcmp(bytes.get(), entry->second.data(), size) == 0;
  }
  return same ? Result<void>{} : refused("its zip archive can be read in two ways");
}

Result<void> check_module(const torch::jit::Module& module, const ScannedArchive& scanned) {
  if (auto good = ValueCheck(scanned).check(c10::IValue(module._ivalue()), module.type()); !good) return good;
  Result<void> result;
  each_graph(module, [&](const torch::jit::Graph& graph) {
    result = check_block(*graph.block(), scanned);
    return result.has_value();
  });
  return result;
}

}  // namespace slipway::inferencer

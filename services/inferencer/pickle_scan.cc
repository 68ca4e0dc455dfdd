#include "services/inferencer/pickle_scan.h"

#include <algorithm>
#include <array>
#include <format>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace slipway::inferencer {
namespace {

constexpr std::size_t kMaxStack = 10'000'000;
constexpr std::size_t kMaxName = 1024;
constexpr int kMaxDepth = 32;  // what holds what; torch goes through it recursively

struct StorageType {
  std::string_view name;
  std::uint64_t item_bytes;
};
constexpr std::array kStorageTypes{
    StorageType{"torch.FloatStorage", 4},    StorageType{"torch.DoubleStorage", 8}, StorageType{"torch.HalfStorage", 2},
    StorageType{"torch.BFloat16Storage", 2}, StorageType{"torch.LongStorage", 8},   StorageType{"torch.IntStorage", 4},
    StorageType{"torch.ShortStorage", 2},    StorageType{"torch.CharStorage", 1},   StorageType{"torch.ByteStorage", 1},
    StorageType{"torch.BoolStorage", 1},
};

constexpr std::array<std::string_view, 14> kClasses{
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.device",
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_tensorlist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_tensor_from_id",
    "torch.jit._pickle.restore_type_tag",
    "torch.jit._pickle.IntList",
    "torch.jit._pickle.TensorList",
    "torch.jit._pickle.DoubleList",
    "torch.jit._pickle.BoolList",
};

bool allowed_class(std::string_view name) {
  // Classes of the module's own code, which is scanned too; but not those that torch has in C++, whose state native
  // code would read.
  if (name.starts_with("__torch__.")) return !name.starts_with("__torch__.torch.classes.");
  return std::ranges::find(kClasses, name) != kClasses.end() ||
         std::ranges::find(kStorageTypes, name, &StorageType::name) != kStorageTypes.end();
}

// A list, a dictionary or an object, which all who remember it share.
struct Container {
  int depth = 1;
  bool open = true;  // not put into another one yet, so that it may still be filled
};

struct Value {
  enum class Kind : std::uint8_t { kOther, kMark, kInt, kText, kClass, kTuple };
  Kind kind = Kind::kOther;
  std::int64_t number = 0;
  std::string text;
  std::shared_ptr<const std::vector<Value>> items;
  int depth = 0;  // of what is no container
  std::shared_ptr<Container> container;

  int levels() const { return container ? container->depth : depth; }
};
using Kind = Value::Kind;

int deepest(const std::vector<Value>& values) {
  int most = 0;
  for (const Value& value : values) most = std::max(most, value.levels());
  return most;
}

// From now on nothing may be put into them: what holds them counted their levels.
void close(const std::vector<Value>& values) {
  for (const Value& value : values) {
    if (value.container) value.container->open = false;
  }
}

class Machine {
 public:
  Machine(const std::string& name, std::span<const std::byte> bytes, const StorageBytes& storage)
      : name_(name), bytes_(bytes), storage_(storage) {}

  Result<void> run() {
    while (true) {
      if (at_ >= bytes_.size()) return broken("it ends without STOP");
      if (stack_.size() > kMaxStack) return broken("its stack is too deep");
      const auto opcode = static_cast<std::uint8_t>(bytes_[at_++]);
      if (opcode == '.') return at_ == bytes_.size() ? Result<void>{} : broken("bytes follow its end");
      if (auto done = step(opcode); !done) return done;
    }
  }

 private:
  std::unexpected<Error> broken(std::string_view why) const {
    return fail(Code::kInvalidArgument, std::format("not a TorchScript file: {} at byte {}: {}", name_, at_, why));
  }

  std::optional<std::uint64_t> number(std::size_t size) {
    if (bytes_.size() - at_ < size) return std::nullopt;
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value |= std::uint64_t{static_cast<std::uint8_t>(bytes_[at_ + i])} << (8 * i);
    }
    at_ += size;
    return value;
  }

  std::optional<std::string> text(std::uint64_t size) {
    if (bytes_.size() - at_ < size) return std::nullopt;
    std::string value(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return value;
  }

  std::optional<std::string> line() {
    std::string value;
    while (at_ < bytes_.size() && value.size() < kMaxName) {
      const char c = static_cast<char>(bytes_[at_++]);
      if (c == '\n') return value;
      value += c;
    }
    return std::nullopt;
  }

  Result<void> push(Value value) {
    stack_.push_back(std::move(value));
    return {};
  }
  Result<void> push_number(std::optional<std::uint64_t> value, int sign_bits) {
    if (!value) return broken("a number is cut off");
    auto n = static_cast<std::int64_t>(*value);
    if (sign_bits == 32) n = static_cast<std::int32_t>(*value);
    return push({.kind = Kind::kInt, .number = n, .text = {}, .items = {}, .depth = 0, .container = {}});
  }
  Result<void> push_text(std::optional<std::uint64_t> size) {
    if (!size) return broken("a text is cut off");
    auto value = text(*size);
    if (!value) return broken("a text is cut off");
    return push({.kind = Kind::kText, .text = std::move(*value), .items = {}, .depth = 0, .container = {}});
  }

  // Takes `count` values off the stack; they must be above the last mark.
  std::optional<std::vector<Value>> pop(std::size_t count) {
    if (stack_.size() < count) return std::nullopt;
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    if (std::any_of(first, stack_.end(), [](const Value& v) { return v.kind == Kind::kMark; })) return std::nullopt;
    std::vector<Value> values(std::make_move_iterator(first), std::make_move_iterator(stack_.end()));
    stack_.erase(first, stack_.end());
    return values;
  }
  std::optional<std::vector<Value>> pop_to_mark() {
    const auto mark =
        std::find_if(stack_.rbegin(), stack_.rend(), [](const Value& v) { return v.kind == Kind::kMark; });
    if (mark == stack_.rend()) return std::nullopt;
    auto values = pop(static_cast<std::size_t>(mark - stack_.rbegin()));
    stack_.pop_back();
    return values;
  }

  Result<void> tuple(std::optional<std::vector<Value>> items) {
    if (!items) return broken("a tuple lacks its items");
    close(*items);
    const int depth = deepest(*items) + 1;
    if (depth > kMaxDepth) return too_deep();
    return push({.kind = Kind::kTuple,
                 .text = {},
                 .items = std::make_shared<const std::vector<Value>>(std::move(*items)),
                 .depth = depth,
                 .container = {}});
  }
  // A new list, dictionary or object around `items`.
  Result<void> contain(std::optional<std::vector<Value>> items) {
    if (!items) return broken("an operation lacks its operands");
    close(*items);
    Value value;
    value.container = std::make_shared<Container>();
    value.container->depth = deepest(*items) + 1;
    if (value.container->depth > kMaxDepth) return too_deep();
    return push(std::move(value));
  }
  // A tensor, a typed list: whole from the start.
  Result<void> reduce(std::optional<std::vector<Value>> operands) {
    if (!operands) return broken("an operation lacks its operands");
    close(*operands);
    Value value;
    value.depth = deepest(*operands) + 1;
    if (value.depth > kMaxDepth) return too_deep();
    return push(std::move(value));
  }
  // APPENDS and its siblings: the container below stays. An object and the dictionary of its attributes are one level.
  Result<void> fill(std::optional<std::vector<Value>> taken, int more = 1) {
    if (!taken || stack_.empty() || !stack_.back().container) return broken("items without a container");
    Container& container = *stack_.back().container;
    if (!container.open) return broken("items for what is in use already");
    close(*taken);
    container.depth = std::max(container.depth, deepest(*taken) + more);
    return container.depth > kMaxDepth ? too_deep() : Result<void>{};
  }
  // The same for pairs.
  Result<void> fill_pairs(std::optional<std::vector<Value>> taken) {
    if (taken && taken->size() % 2 != 0) return broken("a key without a value");
    return fill(std::move(taken));
  }
  std::unexpected<Error> too_deep() const {
    return broken(std::format("it is nested more than {} levels deep", kMaxDepth));
  }

  Result<void> put(std::optional<std::uint64_t> slot) {
    if (!slot || stack_.empty() || stack_.back().kind == Kind::kMark) return broken("nothing to remember");
    // Torch makes room for all slots below.
    if (*slot > memo_.size()) return broken("a slot out of turn");
    memo_[*slot] = stack_.back();
    return {};
  }
  Result<void> get(std::optional<std::uint64_t> slot) {
    if (!slot || !memo_.contains(*slot)) return broken("nothing was remembered");
    const Value& value = memo_.at(*slot);
    // Who has it a second time must not find more in it later, or itself.
    if (value.container) value.container->open = false;
    return push(value);
  }

  Result<void> global() {
    const auto module = line();
    const auto name = line();
    if (!module || !name) return broken("a class name is cut off");
    std::string full = *module + "." + *name;
    if (!allowed_class(full)) {
      return fail(
          Code::kInvalidArgument,
          std::format("the TorchScript file is refused: {} names '{}', which a model does not need", name_, full));
    }
    return push({.kind = Kind::kClass, .text = std::move(full), .items = {}, .depth = 0, .container = {}});
  }

  // ("storage", torch.FloatStorage, key, device, number of elements): torch believes the number, so it must be true.
  Result<void> persistent_id() {
    const auto popped = pop(1);
    if (!popped || popped->front().kind != Kind::kTuple) return broken("a storage without its tuple");
    const auto& items = *popped->front().items;
    if (items.size() != 5 || items[0].text != "storage" || items[1].kind != Kind::kClass ||
        items[2].kind != Kind::kText || items[3].kind != Kind::kText || items[4].kind != Kind::kInt) {
      return broken("a storage is described in an unknown way");
    }
    const auto type = std::ranges::find(kStorageTypes, items[1].text, &StorageType::name);
    if (type == kStorageTypes.end()) return broken(std::format("storage type {}", items[1].text));
    auto size = storage_(items[2].text);
    if (!size) return std::unexpected(std::move(size).error());
    if (items[4].number < 0 || static_cast<std::uint64_t>(items[4].number) > *size / type->item_bytes) {
      return broken(std::format("storage '{}' has {} bytes, but {} elements are wanted of it", items[2].text, *size,
                                items[4].number));
    }
    return push({});
  }

  Result<void> step(std::uint8_t opcode) {
    switch (opcode) {
      case 0x80:
        return number(1) == 2 ? Result<void>{} : broken("not pickle protocol 2");
      case '(':
        return push({.kind = Kind::kMark, .text = {}, .items = {}, .depth = 0, .container = {}});
      case 'N':
      case 0x88:
      case 0x89:
        return push({});
      case ']':
      case '}':
        return contain(std::vector<Value>{});
      case 'J':
        return push_number(number(4), 32);
      case 'K':
        return push_number(number(1), 64);
      case 'M':
        return push_number(number(2), 64);
      case 0x8a:
        return number(1) == 8 ? push_number(number(8), 64) : broken("a long number of other than 8 bytes");
      case 'G':
        return number(8) ? push({}) : broken("a number is cut off");
      case 'X':
        return push_text(number(4));
      case 0x8d:
        return push_text(number(8));
      case 'U':
        return push_text(number(1));
      case 'T':
        return push_text(number(4));
      case 'c':
        return global();
      case 'q':
        return put(number(1));
      case 'r':
        return put(number(4));
      case 'h':
        return get(number(1));
      case 'j':
        return get(number(4));
      case ')':
        return tuple(std::vector<Value>{});
      case 't':
        return tuple(pop_to_mark());
      case 0x85:
        return tuple(pop(1));
      case 0x86:
        return tuple(pop(2));
      case 0x87:
        return tuple(pop(3));
      case 'l':
        return contain(pop_to_mark());
      case 'd': {
        auto items = pop_to_mark();
        if (items && items->size() % 2 != 0) return broken("a key without a value");
        return contain(std::move(items));
      }
      case 'a':
        return fill(pop(1));
      case 's':
        return fill_pairs(pop(2));
      case 'e':
        return fill(pop_to_mark());
      case 'u':
        return fill_pairs(pop_to_mark());
      case 'R':
        return reduce(pop(2));
      case 0x81:
        return contain(pop(2));
      case 'b':
        return fill(pop(1), 0);
      case 'Q':
        return persistent_id();
      default:
        return broken(std::format("opcode 0x{:02x}, which TorchScript does not write", opcode));
    }
  }

  const std::string& name_;
  const std::span<const std::byte> bytes_;
  const StorageBytes& storage_;
  std::size_t at_ = 0;
  std::vector<Value> stack_;
  std::unordered_map<std::uint64_t, Value> memo_;
};

}  // namespace

Result<void> scan_pickle(const std::string& name, std::span<const std::byte> bytes, const StorageBytes& storage) {
  return Machine(name, bytes, storage).run();
}

}  // namespace slipway::inferencer

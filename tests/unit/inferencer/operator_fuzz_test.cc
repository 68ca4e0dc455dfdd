// Every operator that an uploaded model may use, with its guards, is given arguments that nobody in good faith gives.
// It may refuse them; it must not end the process. Seeded; with SLIPWAY_FUZZ_CASES more cases are tried for each.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/script.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/operator_guards.h"
#include "services/inferencer/operator_list.h"

namespace slipway::inferencer {
namespace {

using Random = std::mt19937_64;

template <class T, std::size_t N>
T pick(Random& random, const T (&from)[N]) {
  return from[random() % N];
}
bool chance(Random& random, int percent) { return static_cast<int>(random() % 100) < percent; }

std::int64_t whole_number(Random& random) {
  static const std::int64_t edges[] = {0,
                                       -1,
                                       1,
                                       2,
                                       3,
                                       -2,
                                       7,
                                       100,
                                       1000,
                                       1LL << 31,
                                       -(1LL << 31),
                                       1LL << 40,
                                       std::numeric_limits<std::int64_t>::min(),
                                       std::numeric_limits<std::int64_t>::max()};
  static const std::int64_t small[] = {0, 1, 2, 3, 4, -1, -2, -3};
  return chance(random, 40) ? pick(random, edges) : pick(random, small);
}

at::Tensor tensor(Random& random) {
  static const at::ScalarType types[] = {at::kFloat,  at::kFloat, at::kFloat, at::kFloat, at::kLong,
                                         at::kLong,   at::kLong,  at::kBool,  at::kInt,   at::kByte,
                                         at::kDouble, at::kChar,  at::kShort, at::kHalf,  at::kBFloat16};
  static const std::vector<std::int64_t> shapes[] = {
      {},     {0},       {1},          {2},    {3},       {4},    {2, 3},       {3, 2}, {3, 3},         {0, 3},
      {3, 0}, {2, 3, 4}, {1, 3, 8, 8}, {0, 0}, {2, 0, 3}, {4, 4}, {2, 3, 4, 4}, {1, 1}, {1, 2, 3, 4, 5}};
  const auto type = pick(random, types);
  const auto& shape = shapes[random() % std::size(shapes)];
  at::Tensor made;
  if (at::isFloatingType(type)) {
    static const double edges[] = {0,
                                   -1,
                                   1e300,
                                   0.5,
                                   std::numeric_limits<double>::quiet_NaN(),
                                   std::numeric_limits<double>::infinity(),
                                   -std::numeric_limits<double>::infinity()};
    made = chance(random, 70) ? at::randn(shape).to(type) : at::full(shape, pick(random, edges)).to(type);
  } else if (chance(random, 50)) {
    made = at::randint(0, 4, shape, at::kLong).to(type);
  } else {
    made = at::full(shape, whole_number(random), at::kLong).to(type);
  }
  if (made.dim() > 1 && chance(random, 10)) made = made.transpose(0, 1);
  if (made.dim() > 0 && made.size(0) > 0 && chance(random, 10)) made = made.narrow(0, 0, 1).expand_as(made);
  return made;
}

std::string word(Random& random) {
  static const char* const words[] = {
      "",          "a",      "floor", "trunc",  "mean", "sum",      "none",      "constant", "reflect",  "{}",     "ij",
      "ij,jk->ik", "reduce", "prod",  "linear", "%d%s", "circular", "replicate", "cpu",      "bilinear", "nearest"};
  return pick(random, words);
}

c10::IValue value(Random& random, const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      return tensor(random);
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return whole_number(random);
    case c10::TypeKind::FloatType: {
      static const double edges[] = {
          0, -1, 1, 0.5, 2, 1e300, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()};
      return pick(random, edges);
    }
    case c10::TypeKind::BoolType:
      return chance(random, 50);
    case c10::TypeKind::NumberType:
      return chance(random, 50) ? c10::IValue(whole_number(random)) : value(random, c10::FloatType::get());
    case c10::TypeKind::StringType:
      return word(random);
    case c10::TypeKind::DeviceObjType:
      return at::Device(at::kCPU);
    case c10::TypeKind::OptionalType:
      return chance(random, 50) ? c10::IValue() : value(random, type->containedType(0));
    case c10::TypeKind::ListType: {
      c10::impl::GenericList list(type->containedType(0));
      const auto size = random() % 6;
      for (std::size_t i = 0; i < size; ++i) list.push_back(value(random, type->containedType(0)));
      return list;
    }
    case c10::TypeKind::DictType: {
      c10::impl::GenericDict dict(type->containedType(0), type->containedType(1));
      for (int i = 0; i < 2; ++i)
        dict.insert_or_assign(value(random, type->containedType(0)), value(random, type->containedType(1)));
      return dict;
    }
    case c10::TypeKind::TupleType: {
      std::vector<c10::IValue> items;
      for (const auto& item : type->containedTypes()) items.push_back(value(random, item));
      return c10::ivalue::Tuple::create(std::move(items));
    }
    default:
      return {};
  }
}

// What torch's schemas leave open ("t") is a number here, or a tensor.
c10::TypePtr closed(const c10::TypePtr& type, const c10::TypePtr& open) {
  if (!type->hasFreeVariables()) return type;
  c10::TypeEnv env;
  for (const char* name : {"t", "tVal", "t1", "t2", "a"}) env[name] = open;
  return c10::tryEvalTypeVariables(type, env);
}

struct Case {
  std::shared_ptr<torch::jit::Graph> graph;
  std::vector<c10::TypePtr> types;
};

// A graph of the operator alone; nullopt: torch has no such thing, or the compiler makes it of statements.
std::optional<Case> case_of(std::string_view full, const c10::TypePtr& open) {
  const auto point = full.find('.');
  const std::string name(full.substr(0, point));
  const std::string overload(point == std::string_view::npos ? "" : full.substr(point + 1));
  for (const auto& op : torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name))) {
    const auto& schema = op->schema();
    if (schema.overload_name() != overload || schema.is_vararg()) continue;
    Case made{.graph = std::make_shared<torch::jit::Graph>(), .types = {}};
    std::vector<torch::jit::Value*> inputs;
    for (const auto& argument : schema.arguments()) {
      const auto type = closed(argument.type(), open);
      if (type == nullptr) return std::nullopt;
      made.types.push_back(type);
      inputs.push_back(made.graph->addInput()->setType(type));
    }
    auto* node =
        made.graph->insertNode(made.graph->create(c10::Symbol::fromQualString(name), inputs, schema.returns().size()));
    for (std::size_t i = 0; i < schema.returns().size(); ++i) {
      if (const auto type = closed(schema.returns()[i].type(), open)) node->output(i)->setType(type);
    }
    const auto* found = node->maybeSchema();
    if (found == nullptr || found->overload_name() != overload || !guard_operators(*made.graph)) return std::nullopt;
    return made;
  }
  return std::nullopt;
}

struct Progress {
  std::size_t op = 0;
  std::size_t round = 0;
  std::size_t ran = 0;  // to their end
};

void try_from(Progress& progress, std::size_t rounds) {
  const auto all = allowed_operators();
  for (; progress.op < all.size(); ++progress.op, progress.round = 0) {
    const std::array open{c10::TypePtr(c10::IntType::get()), c10::TypePtr(c10::TensorType::get())};
    std::array cases{case_of(all[progress.op], open[0]), case_of(all[progress.op], open[1])};
    for (; progress.round < rounds; ++progress.round) {
      auto& chosen = cases[progress.round % cases.size()];
      if (!chosen) continue;
      Random random(progress.op * 1'000'003 + progress.round);
      torch::manual_seed(progress.round);
      torch::jit::Stack stack;
      alarm(5);
      try {
        for (const auto& type : chosen->types) stack.push_back(value(random, type));
        torch::jit::InterpreterState(torch::jit::Code(chosen->graph, "")).run(stack);
        ++progress.ran;
      } catch (const std::exception&) {
      }
    }
  }
}

std::size_t address_bytes() {
  std::ifstream in("/proc/self/statm");
  std::size_t pages = 0;
  in >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST(OperatorFuzz, NoOperatorOfTheListEndsTheProcess) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a child with a sanitizer has no limit on its memory";
#endif
  start_torch(1);
  const char* wanted = std::getenv("SLIPWAY_FUZZ_CASES");
  const std::size_t rounds = wanted == nullptr ? 24 : std::strtoull(wanted, nullptr, 10);
  void* shared = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& progress = *new (shared) Progress;
  std::vector<int> deaths(allowed_operators().size());
  while (progress.op < allowed_operators().size()) {
    const pid_t child = fork();
    if (child == 0) {
      const rlimit core{.rlim_cur = 0, .rlim_max = 0};
      setrlimit(RLIMIT_CORE, &core);
      const rlimit memory{.rlim_cur = address_bytes() + (1UL << 30), .rlim_max = address_bytes() + (1UL << 30)};
      setrlimit(RLIMIT_AS, &memory);
      static_cast<void>(!freopen("/dev/null", "w", stderr));
      try_from(progress, rounds);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const auto name = allowed_operators()[progress.op];
    // One that takes long is slow, or wants more memory than there is: that ends elsewhere.
    if (signal != SIGALRM) ADD_FAILURE() << name << " case " << progress.round << " ended by signal " << signal;
    if (++deaths[progress.op] < 3) {
      ++progress.round;
    } else {
      ++progress.op;
      progress.round = 0;
    }
  }
  EXPECT_GT(progress.ran, allowed_operators().size());
  std::cout << "ran to their end: " << progress.ran << " of " << rounds * allowed_operators().size() << "\n";
  munmap(shared, sizeof(Progress));
}

}  // namespace
}  // namespace slipway::inferencer

#include "services/inferencer/operator_guards.h"

#include <algorithm>
#include <limits>

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/operator_list.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();

class OperatorGuards : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  static torch::jit::Module guarded(const std::string& source) {
    torch::jit::Module module("net");
    module.define(source);
    const auto done = guard_operators(module);
    EXPECT_TRUE(done) << done.error().message;
    return module;
  }
  static std::string failure(torch::jit::Module module, std::vector<c10::IValue> arguments) {
    try {
      static_cast<void>(module.forward(std::move(arguments)));
      return "";
    } catch (const std::exception& error) {
      return error.what();
    }
  }
  static at::Tensor longs(std::vector<std::int64_t> values) { return torch::tensor(values, at::kLong); }
};

TEST_F(OperatorGuards, ADivisionOfNumbersByZeroIsAnException) {
  for (const std::string operation : {"a % b", "a // b", "divmod(a, b)[0]"}) {
    auto module = guarded("def forward(self, a: int, b: int):\n  return " + operation + "\n");
    EXPECT_NE(failure(module, {7, 0}), "") << operation;
    EXPECT_NE(failure(module, {kLeast, -1}), "") << operation;
    EXPECT_EQ(failure(module, {7, -1}), "") << operation;
  }
}

TEST_F(OperatorGuards, ADivisionOfTensorsByZeroIsAnException) {
  for (const std::string operation :
       {"torch.div(a, b, rounding_mode=\"floor\")", "torch.div(a, b, rounding_mode=\"trunc\")", "a % b",
        "torch.floor_divide(a, b)", "torch.fmod(a, b)", "torch.remainder(a, b)", "a.clone().remainder_(b)",
        "a.clone().fmod_(b)", "a.clone().floor_divide_(b)", "a.clone().div_(b, rounding_mode=\"floor\")"}) {
    auto module = guarded("def forward(self, a, b):\n  return " + operation + "\n");
    EXPECT_NE(failure(module, {longs({1, 2}), longs({1, 0})}), "") << operation;
    EXPECT_NE(failure(module, {longs({1, kLeast}), longs({1, -1})}), "") << operation;
    EXPECT_EQ(failure(module, {longs({kLeast, 1}), longs({1, -1})}), "") << operation;
    // Floating point knows what to do.
    EXPECT_EQ(failure(module, {torch::ones({2}), torch::zeros({2})}), "") << operation;
  }
}

TEST_F(OperatorGuards, ADivisionOfATensorByANumberIsCheckedToo) {
  for (const std::string operation :
       {"torch.div(a, b, rounding_mode=\"floor\")", "a % b", "torch.fmod(a, b)", "a // b", "b % a"}) {
    auto module = guarded("def forward(self, a, b: int):\n  return " + operation + "\n");
    EXPECT_NE(failure(module, {longs({kLeast, 0}), -1}) + failure(module, {longs({0, 1}), 0}), "") << operation;
    EXPECT_EQ(failure(module, {longs({5, 9}), 2}), "") << operation;
  }
}

TEST_F(OperatorGuards, ResultsStayWhatTheyWere) {
  const std::string source =
      "def forward(self, a, b, n: int):\n"
      "  return torch.div(a, b, rounding_mode=\"floor\") + a % b + torch.fmod(a, n) + (n % 5) + (n // 2)\n";
  torch::jit::Module plain("net");
  plain.define(source);
  auto module = guarded(source);
  const auto a = torch::randint(-100, 100, {1000}, at::kLong);
  const auto b = torch::randint(1, 9, {1000}, at::kLong);
  EXPECT_TRUE(at::equal(plain.forward({a, b, 3}).toTensor(), module.forward({a, b, 3}).toTensor()));
}

TEST_F(OperatorGuards, GuardsMethodsAndSubmodules) {
  torch::jit::Module inner("inner");
  inner.define("def go(self, n: int):\n  return 7 % n\n");
  torch::jit::Module module("net");
  module.register_module("inner", inner);
  // A submodule that was compiled on its own has a compilation unit of its own; one from a file has not.
  const Folder folder;
  module.define("def forward(self, n: int):\n  return self.inner.go(n)\n");
  module.save((folder.path() / "m.pt").string());
  auto loaded = torch::jit::load((folder.path() / "m.pt").string());
  ASSERT_TRUE(guard_operators(loaded));
  EXPECT_NE(failure(loaded, {0}), "");
  EXPECT_EQ(failure(loaded, {2}), "");
}

TEST_F(OperatorGuards, ADataTypeThatIsNoneIsRefusedOrRaised) {
  torch::jit::Module module("net");
  module.define("def forward(self, x):\n  return torch.zeros([2], dtype=99) + x\n");
  EXPECT_EQ(guard_operators(module).error().code, Code::kInvalidArgument);
  auto computed = guarded("def forward(self, x, n: int):\n  return torch.to(x, n)\n");
  EXPECT_NE(failure(computed, {torch::ones({2}), 99}), "");
  EXPECT_NE(failure(computed, {torch::ones({2}), -1}), "");
  EXPECT_EQ(failure(computed, {torch::ones({2}), 7}), "");
}

TEST_F(OperatorGuards, ACopyToNothingIsAnException) {
  auto by_device =
      guarded("def forward(self, x, d: Optional[Device], t: Optional[int]):\n  return x.to(d, t, copy=True)\n");
  EXPECT_NE(failure(by_device, {torch::ones({2}), {}, {}}), "");
  EXPECT_EQ(failure(by_device, {torch::ones({2}), at::Device(at::kCPU), {}}), "");
  EXPECT_EQ(failure(by_device, {torch::ones({2}), {}, static_cast<std::int64_t>(at::kLong)}), "");
  auto by_dtype = guarded("def forward(self, x, t: Optional[int]):\n  return x.to(t, copy=True)\n");
  EXPECT_NE(failure(by_dtype, {torch::ones({2}), {}}), "");
  EXPECT_EQ(failure(by_dtype, {torch::ones({2}), static_cast<std::int64_t>(at::kLong)}), "");
  auto by_nothing = guarded("def forward(self, x, copy: bool):\n  return x.to(False, copy)\n");
  EXPECT_NE(failure(by_nothing, {torch::ones({2}), true}), "");
  EXPECT_EQ(failure(by_nothing, {torch::ones({2}), false}), "");
}

TEST_F(OperatorGuards, AttentionOverMoreKeysThanValuesIsAnException) {
  auto module = guarded("def forward(self, q, k, v):\n  return torch.scaled_dot_product_attention(q, k, v)\n");
  const auto some = torch::ones({1, 1, 4, 8});
  EXPECT_EQ(failure(module, {some, some, some}), "");
  EXPECT_EQ(failure(module, {some, torch::ones({1, 1, 6, 8}), torch::ones({1, 1, 6, 8})}), "");
  EXPECT_NE(failure(module, {some, torch::ones({1, 1, 1, 8}), some}), "");
  EXPECT_NE(failure(module, {some, some, torch::ones({1, 1, 5, 8})}), "");
  EXPECT_NE(failure(module, {some, some, torch::ones({4, 8})}), "");
}

TEST_F(OperatorGuards, ResizingByNextToNothingIsAnException) {
  auto by_scale = guarded("def forward(self, x, s: float):\n  return torch.upsample_nearest1d(x, [100], s)\n");
  const auto bytes = torch::ones({1, 1, 5}, at::kByte);
  EXPECT_EQ(failure(by_scale, {bytes, 20.0}), "");
  EXPECT_NE(failure(by_scale, {bytes, 1e-30}), "");
  EXPECT_NE(failure(by_scale, {bytes, std::numeric_limits<double>::quiet_NaN()}), "");
  auto by_scales = guarded("def forward(self, x, s: List[float]):\n  return torch.upsample_nearest1d(x, None, s)\n");
  EXPECT_EQ(failure(by_scales, {torch::ones({1, 1, 5}), std::vector<double>{2.0}}), "");
  EXPECT_NE(failure(by_scales, {torch::ones({1, 1, 5}), std::vector<double>{1e-30}}), "");
}

TEST_F(OperatorGuards, AModeThatIsNoneIsAnException) {
  auto module = guarded(
      "def forward(self, x, g, mode: int, pad: int):\n  return torch.grid_sampler_2d(x, g, mode, pad, False)\n");
  const std::vector<c10::IValue> good{torch::ones({1, 1, 4, 4}), torch::zeros({1, 2, 2, 2})};
  EXPECT_EQ(failure(module, {good[0], good[1], 2, 2}), "");
  EXPECT_NE(failure(module, {good[0], good[1], 77, 0}), "");
  EXPECT_NE(failure(module, {good[0], good[1], 0, -1}), "");
}

TEST_F(OperatorGuards, ListsThatAreSortedByWhatIsNoOrderAreNotOnTheList) {
  for (const std::string_view name : {"aten::sort.Tensor", "aten::sort.any", "aten::sort.float"})
    EXPECT_FALSE(std::ranges::contains(allowed_operators(), name)) << name;
}

TEST_F(OperatorGuards, APaddingOfAWrongLengthIsAnException) {
  auto module = guarded("def forward(self, x, p: List[int]):\n  return torch.reflection_pad1d(x, p)\n");
  const auto x = torch::ones({3, 2, 4, 4});
  EXPECT_NE(failure(module, {x, c10::List<std::int64_t>({1, -1})}), "");
  EXPECT_NE(failure(module, {x[0], c10::List<std::int64_t>()}), "");
  EXPECT_EQ(failure(module, {x[0], c10::List<std::int64_t>({1, 1})}), "");
}

TEST_F(OperatorGuards, RecurrentLayersMustFit) {
  auto module = guarded(
      "def forward(self, x, h, w: List[Tensor], layers: int):\n"
      "  return torch.gru(x, h, w, True, layers, 0.0, False, False, True)\n");
  const auto x = torch::ones({2, 5, 3});
  const auto h = torch::zeros({1, 2, 4});
  const c10::List<at::Tensor> weights(
      {torch::ones({12, 3}), torch::ones({12, 4}), torch::ones({12}), torch::ones({12})});
  EXPECT_EQ(failure(module, {x, h, weights, 1}), "");
  EXPECT_NE(failure(module, {x, h, weights, 2}), "");
  EXPECT_NE(failure(module, {x, h, weights, std::numeric_limits<std::int64_t>::max()}), "");
  EXPECT_NE(failure(module, {x, torch::zeros({1, 7, 4}), weights, 1}), "");
  auto more = weights.copy();
  more.push_back(torch::ones({12}));
  EXPECT_NE(failure(module, {x, h, more, 1}), "");
  auto other = weights.copy();
  other.set(0, torch::ones({3}));
  EXPECT_NE(failure(module, {x, h, other, 1}), "");
}

TEST_F(OperatorGuards, AFactorThatOverflowsIsAnException) {
  auto module = guarded("def forward(self, x, n: int):\n  return torch.pixel_shuffle(x, n)\n");
  EXPECT_NE(failure(module, {torch::ones({1, 4, 2, 2}), std::int64_t{1} << 32}), "");
  EXPECT_EQ(failure(module, {torch::ones({1, 4, 2, 2}), 2}), "");
}

}  // namespace
}  // namespace slipway::inferencer

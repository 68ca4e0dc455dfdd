#include "services/trainer/optimizer.h"

#include <algorithm>
#include <cmath>

#include "tests/unit/trainer/networks.h"

namespace slipway::trainer {
namespace {

using Kind = keras::Optimizer::Kind;

keras::Optimizer sgd(double momentum) {
  keras::Optimizer s;
  s.kind = Kind::kSgd;
  s.learning_rate = 0.1;
  s.momentum = momentum;
  return s;
}
keras::Optimizer nesterov(keras::Optimizer s) {
  s.nesterov = true;
  return s;
}
keras::Optimizer adam() {
  keras::Optimizer s;
  s.learning_rate = 0.1;
  return s;
}
keras::Optimizer rmsprop() {
  keras::Optimizer s;
  s.kind = Kind::kRmsprop;
  s.learning_rate = 0.1;
  return s;
}
template <class Change>
keras::Optimizer with(keras::Optimizer s, Change change) {
  change(s);
  return s;
}

NamedTensors weights() { return {{"a", waves({4}, 1, 0.9)}, {"b", waves({2}, 1, 1.7)}}; }

std::vector<torch::Tensor> gradients(int step) {
  return {waves({4}, 1.0 + step, 0.7 + 0.3 * step), waves({2}, 1.0 + step, 0.4 + 0.3 * step)};
}

constexpr double kRates[] = {0.1, 0.1, 0.05, 0.05, 0.01};

// Five steps over two weights, with a falling learning rate or without. Keras takes powers of the betas in float32,
// which shows in the sixth digit.
void expect_sequence(const keras::Optimizer& settings, bool falling, const std::vector<float>& wanted) {
  const auto named = weights();
  Optimizer optimizer(settings, named);
  for (int t = 0; t < 5; ++t) {
    auto g = gradients(t);
    optimizer.step(g, falling ? kRates[t] : 0.1);
  }
  expect_near(torch::cat({named[0].second, named[1].second}), wanted, 1e-5);
}

TEST(Optimizers, Sgd) {
  expect_sequence(sgd(0), false, {-0.611436f, 0.8680713f, 1.192973f, -0.5902019f, -0.313772f, -0.9741694f});
}

TEST(Optimizers, SgdMomentumKeepsTheRateInsideTheVelocity) {
  expect_sequence(sgd(0.9), true, {-0.8780897f, -0.2118948f, 0.6624785f, 0.2072669f, -0.3690875f, -1.789699f});
}

TEST(Optimizers, SgdNesterov) {
  expect_sequence(nesterov(sgd(0.9)), true, {-1.336427f, -0.4087825f, 0.8543558f, 0.3209623f, -0.7697085f, -2.141685f});
}

TEST(Optimizers, SgdWithDecayAndClippedValues) {
  expect_sequence(with(sgd(0.5), [](auto& s) { s.weight_decay = 0.1, s.clipvalue = 0.5; }), true,
                  {0.4847416f, 0.7343989f, 0.3523489f, -0.3962403f, 0.7078104f, -0.5143698f});
}

TEST(Optimizers, AdamPutsEpsilonOutsideTheBiasCorrection) {
  expect_sequence(with(adam(), [](auto& s) { s.epsilon = 1e-2; }), true,
                  {0.5413637f, 0.7363999f, 0.3401699f, -0.3877032f, 0.7717386f, -0.5005634f});
}

TEST(Optimizers, AdamAmsgrad) {
  expect_sequence(with(adam(), [](auto& s) { s.amsgrad = true; }), true,
                  {0.4875053f, 0.6897396f, 0.2953215f, -0.4203677f, 0.7020494f, -0.5513728f});
}

TEST(Optimizers, AdamW) {
  expect_sequence(with(adam(), [](auto& s) { s.kind = Kind::kAdamW, s.weight_decay = 0.1; }), true,
                  {0.4669327f, 0.66338f, 0.2851352f, -0.4056188f, 0.6750499f, -0.5401068f});
}

TEST(Optimizers, AdamClipsEachTensor) {
  expect_sequence(with(adam(), [](auto& s) { s.clipnorm = 0.5, s.epsilon = 0.1; }), false,
                  {0.7205825f, 0.924147f, 0.422664f, -0.4292785f, 0.9225376f, -0.3351604f});
}

TEST(Optimizers, AdamClipsAllTensorsTogether) {
  expect_sequence(with(adam(), [](auto& s) { s.global_clipnorm = 0.5, s.epsilon = 0.1; }), false,
                  {0.7308296f, 0.9317587f, 0.4217203f, -0.4331659f, 0.949358f, -0.3038577f});
}

TEST(Optimizers, AdamWithDecay) {
  expect_sequence(with(adam(), [](auto& s) { s.weight_decay = 0.2; }), false,
                  {0.2525603f, 0.5287825f, 0.3785355f, -0.3306308f, 0.4524525f, -0.6726325f});
}

TEST(Optimizers, RmspropPutsEpsilonInsideTheRoot) {
  expect_sequence(rmsprop(), true, {-0.112282f, 0.3189241f, 0.3119014f, -0.363718f, 0.07684935f, -1.081839f});
}

TEST(Optimizers, RmspropMomentum) {
  expect_sequence(with(rmsprop(), [](auto& s) { s.momentum = 0.8; }), true,
                  {-1.734579f, -1.106307f, -0.3126894f, -0.327471f, -1.570495f, -2.665003f});
}

TEST(Optimizers, RmspropCentered) {
  expect_sequence(with(rmsprop(), [](auto& s) { s.centered = true, s.epsilon = 1e-3; }), true,
                  {-0.1951778f, 0.2618712f, 0.3025659f, -0.3459207f, 0.005237201f, -1.155868f});
}

TEST(Optimizers, RmspropCenteredMomentum) {
  expect_sequence(with(rmsprop(), [](auto& s) { s.centered = true, s.momentum = 0.5, s.epsilon = 1e-3; }), true,
                  {-0.9746869f, -0.3963847f, 0.08139478f, -0.2658204f, -0.7772275f, -1.910123f});
}

// The fused kernel against Keras' formula written out, in double precision, far into a training.
TEST(Optimizers, AdamFollowsKerasFormulaForAThousandSteps) {
  const auto weight = waves({64}, 1, 0.9).to(torch::kFloat64);
  auto w = weight.clone();
  auto m = torch::zeros_like(w), v = torch::zeros_like(w);
  keras::Optimizer settings = adam();
  Optimizer optimizer(settings, {{"w", weight}});
  for (int t = 1; t <= 1000; ++t) {
    const auto g = waves({64}, 0.01, 0.1 * t).to(torch::kFloat64);
    std::vector<torch::Tensor> gradients{g.clone()};
    optimizer.step(gradients, 0.001);
    m += (g - m) * (1 - 0.9);
    v += (g * g - v) * (1 - 0.999);
    const double alpha = 0.001 * std::sqrt(1 - std::pow(0.999, t)) / (1 - std::pow(0.9, t));
    w -= m * alpha / (v.sqrt() + 1e-7);
  }
  EXPECT_LT((w - weight).abs().max().item<double>(), 1e-6);
}

TEST(Optimizers, GradientsInAnotherMemoryOrderAreTheSameGradients) {
  const auto run = [](bool channels_last) {
    const auto weight = waves({3, 2, 2, 2}, 1, 0.9);
    Optimizer optimizer(adam(), {{"w", weight}});
    auto g = waves({3, 2, 2, 2}, 1, 0.7);
    if (channels_last) g = g.contiguous(at::MemoryFormat::ChannelsLast);
    std::vector<torch::Tensor> gradients{g};
    optimizer.step(gradients, 0.1);
    return weight;
  };
  EXPECT_TRUE(run(false).equal(run(true)));
}

TEST(Optimizers, StateMovesToAnotherByName) {
  const auto settings = with(rmsprop(), [](auto& s) { s.centered = true, s.momentum = 0.5; });
  const auto first = weights();
  Optimizer one(settings, first);
  auto g = gradients(0);
  one.step(g, 0.1);
  NamedTensors second, state;
  for (const auto& [name, tensor] : first) second.emplace_back(name, tensor.clone());
  for (const auto& [name, tensor] : one.state()) state.emplace_back(name, tensor.clone());
  std::ranges::reverse(state);
  Optimizer two(settings, second);
  ASSERT_TRUE(two.restore(state, one.steps()));
  for (int t = 1; t < 4; ++t) {
    auto g1 = gradients(t), g2 = gradients(t);
    one.step(g1, 0.1);
    two.step(g2, 0.1);
  }
  EXPECT_TRUE(first[0].second.equal(second[0].second) && first[1].second.equal(second[1].second));
}

TEST(Optimizers, StateOfAnotherIsRefused) {
  Optimizer optimizer(adam(), weights());
  EXPECT_EQ(optimizer.restore({}, 1).error().code, Code::kDataLoss);
  auto renamed = optimizer.state();
  renamed[0].first = "c/momentum";
  EXPECT_EQ(optimizer.restore(renamed, 1).error().code, Code::kDataLoss);
  auto other_shape = optimizer.state();
  other_shape[0].second = torch::zeros({5});
  EXPECT_EQ(optimizer.restore(other_shape, 1).error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace slipway::trainer

#include "services/trainer/objective.h"

#include "tests/unit/trainer/networks.h"

namespace slipway::trainer {
namespace {

using A = keras::Activation;
using K = keras::Loss::Kind;
using M = keras::MetricKind;

keras::Loss loss_of(K kind, double smoothing = 0, bool from_logits = false) {
  keras::Loss l;
  l.kind = kind;
  l.label_smoothing = smoothing;
  l.from_logits = from_logits;
  return l;
}

torch::Tensor outputs() { return waves({4, 3}, 2, 0.7); }
torch::Tensor classes() { return torch::tensor({0, 2, 1, 1}, torch::kInt64); }
torch::Tensor one_hot() { return torch::one_hot(classes(), 3).to(torch::kFloat32); }
torch::Tensor bits() { return waves({4, 3}, 1, 1.3).gt(0).to(torch::kFloat32); }

double value(const keras::Loss& loss, A last, const torch::Tensor& logits, const torch::Tensor& targets) {
  return Objective(loss, {}, last).loss(logits, targets).item<double>();
}

TEST(Losses, AreKerasMeansOverAllElements) {
  EXPECT_NEAR(value(loss_of(K::kMeanSquaredError), A::kLinear, outputs(), bits()), 2.234667f, 2e-6);
  EXPECT_NEAR(value(loss_of(K::kMeanAbsoluteError), A::kLinear, outputs(), bits()), 1.196752f, 2e-6);
}

TEST(Losses, CrossEntropiesFromLogitsEqualThoseOfTheProbabilities) {
  EXPECT_NEAR(value(loss_of(K::kSparseCategoricalCrossentropy), A::kSoftmax, outputs(), classes()), 1.670599f, 2e-6);
  EXPECT_NEAR(value(loss_of(K::kCategoricalCrossentropy), A::kSoftmax, outputs(), one_hot()), 1.670599f, 2e-6);
  EXPECT_NEAR(value(loss_of(K::kBinaryCrossentropy), A::kSigmoid, outputs(), bits()), 0.8287896f, 2e-6);
  EXPECT_NEAR(value(loss_of(K::kSparseCategoricalCrossentropy, 0, true), A::kLinear, outputs(), classes()), 1.670599f,
              2e-6);
}

TEST(Losses, LabelSmoothing) {
  EXPECT_NEAR(value(loss_of(K::kCategoricalCrossentropy, 0.1), A::kSoftmax, outputs(), one_hot()), 1.63527f, 2e-6);
  EXPECT_NEAR(value(loss_of(K::kBinaryCrossentropy, 0.1), A::kSigmoid, outputs(), bits()), 0.8399636f, 2e-6);
}

TEST(Losses, ValuesThatAreNoProbabilitiesAreNormalisedAndClipped) {
  EXPECT_NEAR(value(loss_of(K::kCategoricalCrossentropy), A::kLinear, outputs().abs() + 0.1, one_hot()), 0.962793f,
              2e-6);
  EXPECT_NEAR(value(loss_of(K::kBinaryCrossentropy), A::kLinear, outputs().abs().clamp(0, 1.2), bits()), 2.781834f,
              2e-5);
}

TEST(Losses, StayFiniteFarFromZero) {
  const auto far = torch::tensor({{1e4f, 0.f}, {0.f, 1e4f}});
  const auto labels = torch::tensor({1, 1}, torch::kInt64);
  EXPECT_NEAR(value(loss_of(K::kSparseCategoricalCrossentropy), A::kSoftmax, far, labels), 5000, 1e-3);
}

TEST(Losses, MeanSquaresOfASigmoidAreTakenFromItsValues) {
  const auto wanted = (torch::sigmoid(outputs()) - bits()).square().mean().item<double>();
  EXPECT_NEAR(value(loss_of(K::kMeanSquaredError), A::kSigmoid, outputs(), bits()), wanted, 1e-6);
}

TEST(Metrics, AreKeras) {
  const std::vector<keras::MetricSpec> sparse{{"accuracy", M::kSparseCategoricalAccuracy}};
  const Objective classifier(loss_of(K::kSparseCategoricalCrossentropy), sparse, A::kSoftmax);
  RunningMeans means;
  classifier.add(means, 1, outputs(), classes());
  EXPECT_NEAR(classifier.logs(means)[1].value, 0.25f, 1e-6);

  const Objective dense(loss_of(K::kCategoricalCrossentropy), {{"accuracy", M::kCategoricalAccuracy}}, A::kSoftmax);
  means = {};
  dense.add(means, 1, outputs(), one_hot());
  EXPECT_NEAR(dense.logs(means)[1].value, 0.25f, 1e-6);

  const Objective binary(loss_of(K::kBinaryCrossentropy), {{"accuracy", M::kBinaryAccuracy}}, A::kSigmoid);
  means = {};
  binary.add(means, 1, outputs(), bits());
  EXPECT_NEAR(binary.logs(means)[1].value, 0.5f, 1e-6);

  const Objective values(
      loss_of(K::kMeanSquaredError),
      {{"mse", M::kMeanSquaredError}, {"mae", M::kMeanAbsoluteError}, {"rmse", M::kRootMeanSquaredError}}, A::kLinear);
  means = {};
  values.add(means, 1, outputs(), bits());
  EXPECT_NEAR(values.logs(means)[1].value, 2.234667f, 2e-6);
  EXPECT_NEAR(values.logs(means)[2].value, 1.196752f, 2e-6);
  EXPECT_NEAR(values.logs(means)[3].value, 1.49488f, 2e-6);
}

TEST(Metrics, TheLossOfAnEpochWeighsBatchesByTheirRows) {
  const Objective objective(loss_of(K::kMeanSquaredError), {}, A::kLinear);
  RunningMeans means;
  objective.add(means, 1.0, torch::zeros({3, 1}), torch::zeros({3, 1}));
  objective.add(means, 5.0, torch::zeros({1, 1}), torch::zeros({1, 1}));
  EXPECT_DOUBLE_EQ(objective.logs(means, "val_")[0].value, 2.0);
  EXPECT_EQ(objective.logs(means, "val_")[0].name, "val_loss");
}

TEST(Targets, ClassNumbersBecomeOneHotWhereTheLossWantsRows) {
  const Objective objective(loss_of(K::kCategoricalCrossentropy), {}, A::kSoftmax);
  EXPECT_TRUE(objective.targets(classes(), {3})->equal(one_hot()));
  EXPECT_EQ(objective.targets(torch::tensor({0, 3}, torch::kInt64), {3}).error().code, Code::kInvalidArgument);
}

TEST(Targets, OneNumberARowIsAColumn) {
  const Objective objective(loss_of(K::kMeanSquaredError), {}, A::kLinear);
  EXPECT_EQ(objective.targets(torch::tensor({1.f, 2.f}), {1})->sizes(), torch::IntArrayRef({2, 1}));
  EXPECT_EQ(objective.targets(torch::tensor({1.f, 2.f}), {3}).error().code, Code::kInvalidArgument);
}

TEST(Penalties, AddL1AndL2) {
  keras::Regularizer regularizer;
  regularizer.l1 = 0.5;
  regularizer.l2 = 0.25;
  const auto sum = Objective::penalty({{torch::tensor({-2.f, 1.f}), regularizer}});
  EXPECT_DOUBLE_EQ(sum.item<double>(), 0.5 * 3 + 0.25 * 5);
  EXPECT_FALSE(Objective::penalty({}).defined());
}

}  // namespace
}  // namespace slipway::trainer

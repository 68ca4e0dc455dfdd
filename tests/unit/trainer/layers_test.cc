#include <set>
#include <sstream>

#include "tests/unit/trainer/networks.h"

namespace slipway::trainer {
namespace {

using A = keras::Activation;
using P = keras::Padding;

keras::Conv2D strided(keras::Conv2D c, std::int64_t stride) {
  c.strides[0] = c.strides[1] = stride;
  return c;
}
keras::Conv2D dilated(keras::Conv2D c, std::int64_t dilation) {
  c.dilation[0] = c.dilation[1] = dilation;
  return c;
}
keras::Conv2D same(keras::Conv2D c) {
  c.padding = P::kSame;
  return c;
}
keras::Conv2D grouped(keras::Conv2D c, std::int64_t groups) {
  c.groups = groups;
  c.use_bias = false;
  return c;
}
keras::Pooling2D pool(bool average, std::int64_t size, std::int64_t stride, P padding) {
  keras::Pooling2D p;
  p.average = average;
  p.pool_size[0] = p.pool_size[1] = size;
  p.strides[0] = p.strides[1] = stride;
  p.padding = padding;
  return p;
}

keras::BatchNormalization without_beta(keras::BatchNormalization b) {
  b.center = false;
  return b;
}
keras::BatchNormalization without_gamma(keras::BatchNormalization b) {
  b.scale = false;
  return b;
}

Network filled(const Dims& input, const std::vector<Part>& parts) {
  auto network = compile(sequential(input, parts), 1);
  EXPECT_TRUE(network) << network.error().message;
  fill(*network);
  return std::move(*network);
}

// What the network answers to `rows` rows of waves, in evaluation or training mode.
torch::Tensor answer(Network& network, const Dims& input, std::int64_t rows, double scale, bool training = false) {
  Dims shape = input;
  shape.insert(shape.begin(), rows);
  network.module.train(training);
  return network.module.forward({waves(shape, scale, 0.7)}).toTensor();
}

void expect_answer(const Dims& input, const std::vector<Part>& parts, std::int64_t rows, double scale,
                   const std::vector<float>& wanted) {
  auto network = filled(input, parts);
  const auto found = answer(network, input, rows, scale);
  Dims shape = parts.back().output;
  shape.insert(shape.begin(), rows);
  EXPECT_EQ(found.sizes(), torch::IntArrayRef(shape));
  expect_near(found, wanted);
}

TEST(Layers, DenseAppliesItsActivation) {
  expect_answer({3}, {{dense(2, A::kRelu), {2}}}, 2, 1.0, {0.4617261f, 0.216764f, 0.9029751f, 1.032138f});
}

TEST(Layers, ASoftmaxAtTheEndIsServed) {
  expect_answer({3}, {{dense(3, A::kSoftmax), {3}}}, 2, 1.0,
                {0.3347519f, 0.3955798f, 0.2696684f, 0.4346862f, 0.3634863f, 0.2018274f});
}

TEST(Layers, DenseWorksOnTheLastAxis) {
  expect_answer({2, 3}, {{dense(2, A::kTanh), {2, 2}}}, 1, 1.0, {0.43149f, 0.2134316f, 0.7177435f, 0.7747645f});
}

TEST(Layers, ConvolutionIsChannelsLastOutside) {
  expect_answer({4, 4, 2}, {{conv(2, 3, 3), {2, 2, 2}}}, 1, 1.0,
                {0.5480902f, 0.7240441f, 0.4061829f, 0.4454468f, 0.5426958f, 0.6988086f, 0.4926152f, 0.6210852f});
}

TEST(Layers, SamePaddingWithStrideTwoPadsTheEnd) {
  expect_answer({4, 4, 1}, {{same(strided(conv(2, 3, 3), 2)), {2, 2, 2}}}, 1, 1.0,
                {0.7145196f, 0.4639053f, 0.4829903f, 0.7101351f, 0.1109368f, 0.4182355f, 0.5081412f, 0.1958609f});
}

TEST(Layers, SamePaddingOfAnUnevenKernel) {
  expect_answer({5, 4, 1}, {{same(strided(conv(1, 2, 3), 2)), {3, 2, 1}}}, 1, 1.0,
                {2.220562f, 1.447855f, 1.406802f, 1.897119f, 0.3380859f, 1.165332f});
}

TEST(Layers, SamePaddingCountsDilation) {
  expect_answer({4, 4, 1}, {{same(dilated(conv(1, 3, 3), 2)), {4, 4, 1}}, {activation(A::kRelu), {4, 4, 1}}}, 1, 1.0,
                {0.2582151f, 0.4847966f, 0.2485692f, 0.3836212f, 0.6718134f, 0.4703629f, 0.6321279f, 0.5304697f,
                 0.5288508f, 0.3208441f, 0.6066669f, 0.4067507f, 0.2239252f, 0.4189082f, 0.1643277f, 0.3316675f});
}

TEST(Layers, GroupsShareNoInputs) {
  expect_answer({3, 3, 4}, {{grouped(conv(2, 2, 2), 2), {2, 2, 2}}}, 1, 1.0,
                {1.114622f, 1.263828f, -0.8341868f, -1.164239f, -0.02767619f, -0.5885119f, -0.4052022f, 0.178903f});
}

TEST(Layers, SoftmaxAfterAConvolutionIsOverChannels) {
  expect_answer({2, 2, 2}, {{conv(3, 1, 1), {2, 2, 3}}, {activation(A::kSoftmax), {2, 2, 3}}}, 1, 1.0,
                {0.4203494f, 0.3552264f, 0.2244241f, 0.3848225f, 0.3951693f, 0.2200081f, 0.3195668f, 0.4036768f,
                 0.2767563f, 0.3282181f, 0.3660865f, 0.3056954f});
}

TEST(Layers, FlattenAfterAConvolutionKeepsKerasOrder) {
  expect_answer({3, 3, 1}, {{conv(2, 2, 2), {2, 2, 2}}, {keras::Flatten{}, {8}}, {dense(2), {2}}}, 2, 1.0,
                {0.6122202f, 0.6563584f, 0.613684f, 0.6569285f});
}

TEST(Layers, ReshapeAfterAConvolutionKeepsKerasOrder) {
  expect_answer({3, 3, 1}, {{conv(2, 2, 2), {2, 2, 2}}, {keras::Reshape{{2, 4}}, {2, 4}}}, 1, 1.0,
                {0.7169532f, 0.2816566f, 1.155283f, 0.5331593f, 0.9518608f, 0.824471f, 0.405782f, 0.7272716f});
}

TEST(Layers, MaxPoolingPadsWithNothing) {
  expect_answer({3, 3, 2}, {{pool(false, 2, 2, P::kSame), {2, 2, 2}}}, 1, -1.0,
                {0.9824526f, 0.6312667f, 0.3507832f, 0.8715758f, 0.8796958f, 0.9791777f, 0.6181371f, -0.03362305f});
}

TEST(Layers, MaxPoolingLeavesTheRestOut) {
  expect_answer({5, 4, 1}, {{pool(false, 2, 2, P::kValid), {2, 2, 1}}}, 1, 1.0,
                {0.9854497f, 0.8632094f, 0.6569866f, 0.9881682f});
}

TEST(Layers, AveragePoolingLeavesPaddingOutOfTheMean) {
  expect_answer(
      {3, 3, 2}, {{pool(true, 2, 2, P::kSame), {2, 2, 2}}}, 1, 1.0,
      {0.1354471f, 0.3365394f, 0.3186925f, -0.008488446f, -0.2802987f, -0.6728284f, -0.6181371f, 0.03362305f});
}

TEST(Layers, AveragePoolingOfOverlappingWindows) {
  expect_answer({3, 3, 1}, {{pool(true, 3, 1, P::kSame), {3, 3, 1}}}, 1, 1.0,
                {0.4034681f, 0.2675843f, 0.156575f, 2.550085e-05f, 0.0009556177f, 0.001974547f, -0.4073786f, -0.414046f,
                 -0.4592029f});
}

TEST(Layers, AveragePooling) {
  expect_answer({4, 4, 1}, {{pool(true, 2, 2, P::kValid), {2, 2, 1}}}, 1, 1.0,
                {0.1018271f, -0.1038804f, 0.1566049f, -0.004026592f});
}

TEST(Layers, GlobalAveragePooling) {
  expect_answer({2, 3, 2}, {{keras::GlobalAveragePooling2D{}, {2}}}, 2, 1.0,
                {0.1965289f, 0.2215302f, -0.007581557f, -0.1509792f});
}

TEST(Layers, GlobalAveragePoolingMayKeepItsAxes) {
  expect_answer({2, 3, 2}, {{conv(2, 1, 1), {2, 3, 2}}, {keras::GlobalAveragePooling2D{true}, {1, 1, 2}}}, 2, 1.0,
                {0.5450475f, 0.5013275f, 0.3855034f, 0.4843627f});
}

TEST(Layers, BatchNormalizationServesMovingStatistics) {
  expect_answer({2, 2, 2}, {{batch_norm(), {2, 2, 2}}}, 1, 1.0,
                {0.4998407f, 0.7636614f, 0.5870621f, 0.4178246f, 0.1035454f, -0.2236802f, -0.1480399f, -0.09591284f});
}

TEST(Layers, RescalingPerChannel) {
  expect_answer({2, 2, 3}, {{keras::Rescaling{{0.5, 1, 2}, {1, 0, -1}}, {2, 2, 3}}}, 1, 1.0,
                {1.322109f, 0.9854497f, 0.7264187f, 1.167494f, -0.3507832f, -2.743152f, 0.5087737f, -0.6312667f,
                 -0.9663722f, 1.328493f, 0.9881682f, 0.7091978f});
}

TEST(Layers, RescalingPerChannelAfterAConvolution) {
  expect_answer({2, 2, 1}, {{conv(2, 1, 1), {2, 2, 2}}, {keras::Rescaling{{0.5, 2}, {0}}, {2, 2, 2}}}, 1, 1.0,
                {0.336526f, 1.536667f, 0.4033501f, 1.868975f, 0.3794115f, 1.749932f, 0.2759691f, 1.235525f});
}

TEST(Layers, Normalization) {
  expect_answer({3}, {{keras::Normalization{{0.1, 0.2, 0.3}, {0.5, 1, 2}, false}, {3}}}, 2, 1.0,
                {0.76964f, 0.7854497f, 0.3982491f, 0.3323234f, -0.5507832f, -0.8284292f});
}

TEST(Layers, NormalizationMayBeInverted) {
  expect_answer({3}, {{keras::Normalization{{0.1, 0.2, 0.3}, {0.5, 1, 2}, true}, {3}}}, 2, 1.0,
                {0.5555307f, 1.18545f, 1.520762f, 0.3368724f, -0.1507832f, -0.9325942f});
}

TEST(Layers, BatchNormalizationTrainsOnTheBatchAndKeepsTheBiasedVariance) {
  auto network = filled({2, 2, 2}, {{batch_norm(0.9), {2, 2, 2}}});
  expect_near(answer(network, {2, 2, 2}, 2, 1, true),
              {0.7323684f, 1.095451f, 0.8527521f, 0.6733614f, 0.1853983f, -0.1095867f, -0.1618419f, 0.04635167f,
               0.3874731f, 0.8823085f, 0.9214443f, 1.01054f, 0.5536444f, 0.2181742f, -0.1053546f, -0.1794103f},
              1e-5);
  expect_near(network.module.attr("layer_0").toModule().attr("running_mean").toTensor(), {0.4087755f, 0.3636174f});
  expect_near(network.module.attr("layer_0").toModule().attr("running_var").toTensor(), {0.9200804f, 0.8101647f}, 1e-5);
}

TEST(Layers, BatchNormalizationWithoutBeta) {
  auto network = filled({3}, {{without_beta(batch_norm(0.9)), {3}}});
  expect_near(answer(network, {3}, 4, 1, true),
              {0.2790673f, 0.4812764f, 0.19311f, 0.09957699f, -0.3906518f, -0.324313f, -0.6651233f, -0.5736748f,
               -0.05933882f, 0.286479f, 0.4830503f, 0.1905418f},
              1e-5);
  expect_near(network.module.attr("layer_0").toModule().attr("running_mean").toTensor(),
              {0.3950054f, 0.433973f, 0.08508015f});
  expect_near(network.module.attr("layer_0").toModule().attr("running_var").toTensor(),
              {0.8964741f, 0.8694067f, 0.5722151f}, 1e-5);
}

TEST(Layers, BatchNormalizationOverAllButTheLastAxis) {
  auto network = filled({2, 3}, {{without_gamma(batch_norm(0.9)), {2, 3}}});
  expect_near(answer(network, {2, 3}, 2, 1, true),
              {1.104182f, 1.475326f, 1.117383f, 0.6459047f, -0.3153614f, -1.30399f, -1.306538f, -0.6912374f,
               -0.06399664f, 1.123105f, 1.478969f, 1.105364f},
              1e-5);
  expect_near(network.module.attr("layer_0").toModule().attr("running_mean").toTensor(),
              {0.3950054f, 0.433973f, 0.08508015f});
  expect_near(network.module.attr("layer_0").toModule().attr("running_var").toTensor(),
              {0.8964741f, 0.8694067f, 0.5722151f}, 1e-5);
}

TEST(Layers, Keras2BatchNormalizationOfImagesKeepsTheUnbiasedVariance) {
  auto norm = batch_norm(0.0);  // the moving variance is the last batch's
  norm.unbiased_moving_variance = true;
  auto network = filled({2, 2, 1}, {{norm, {2, 2, 1}}});
  (void)answer(network, {2, 2, 1}, 3, 1, true);
  const auto wanted = waves({12}, 1, 0.7).var(/*unbiased=*/true).item<float>();
  expect_near(network.module.attr("layer_0").toModule().attr("running_var").toTensor(), {wanted}, 1e-5);
}

TEST(Layers, AFrozenBatchNormalizationStaysInInferenceMode) {
  auto network = filled({2, 2, 2}, {{batch_norm(), {2, 2, 2}, false}});
  const auto trained = answer(network, {2, 2, 2}, 1, 1, true);
  EXPECT_TRUE(trained.equal(answer(network, {2, 2, 2}, 1, 1, false)));
  EXPECT_TRUE(network.trained.empty());
}

TEST(Layers, LogitsLeaveOutASoftmaxAtTheEnd) {
  auto network = filled({3}, {{dense(3, A::kSoftmax), {3}}});
  EXPECT_EQ(network.last_activation, A::kSoftmax);
  const auto x = waves({2, 3}, 1, 0.7);
  const auto logits = network.module.get_method("logits")({x}).toTensor();
  EXPECT_TRUE(torch::softmax(logits, -1).allclose(network.module.forward({x}).toTensor()));
  EXPECT_FALSE(torch::allclose(logits.sum(-1), torch::ones({2})));
}

TEST(Layers, DropoutScalesInTrainingAndVanishesInEvaluation) {
  auto network = filled({1000}, {{dropout(0.25), {1000}}});
  network.module.train();
  const auto y = network.module.forward({torch::ones({1, 1000})}).toTensor();
  const auto kept = y.gt(0).sum().item<std::int64_t>();
  EXPECT_GT(kept, 650);
  EXPECT_LT(kept, 850);
  EXPECT_NEAR(y.max().item<double>(), 1 / 0.75, 1e-6);
  network.module.eval();
  EXPECT_TRUE(network.module.forward({torch::ones({1, 1000})}).toTensor().equal(torch::ones({1, 1000})));
}

TEST(Layers, NamesBecomeUniqueIdentifiers) {
  auto architecture = sequential({2}, {{dense(2), {2}, true, "a/b"},
                                       {dense(2), {2}, true, "a_b"},
                                       {dense(2), {2}, true, "for"},
                                       {dense(2), {2}, true, "forward"},
                                       {dense(2), {2}, true, "1st"},
                                       {dense(2), {2}, true, "__x"},
                                       {dense(2), {2}, true, "\xc3\xa4"}});
  auto network = compile(architecture, 1);
  ASSERT_TRUE(network) << network.error().message;
  std::set<std::string> names;
  for (const auto& [name, tensor] : network->all) names.insert(name);
  EXPECT_EQ(names.size(), 14u);
  EXPECT_TRUE(names.contains("a_b.weight"));
  EXPECT_TRUE(names.contains("layer1st.weight"));
}

TEST(Layers, AnEmptyBatchGoesThrough) {
  auto network =
      filled({3, 3, 1}, {{conv(2, 2, 2), {2, 2, 2}}, {keras::Reshape{{2, 4}}, {2, 4}}, {keras::Flatten{}, {8}}});
  network.module.eval();
  EXPECT_EQ(network.module.forward({torch::zeros({0, 3, 3, 1})}).toTensor().sizes(), torch::IntArrayRef({0, 8}));
}

TEST(Layers, ASavedModuleAnswersTheSame) {
  auto network = filled({4, 4, 1}, {{same(conv(2, 3, 3)), {4, 4, 2}},
                                    {batch_norm(), {4, 4, 2}},
                                    {pool(true, 3, 2, P::kSame), {2, 2, 2}},
                                    {keras::Flatten{}, {8}},
                                    {dense(3, A::kSoftmax), {3}}});
  const auto wanted = answer(network, {4, 4, 1}, 2, 1);
  std::stringstream file;
  network.module.save(file);
  auto loaded = torch::jit::load(file);
  EXPECT_FALSE(loaded.is_training());
  EXPECT_TRUE(loaded.forward({waves({2, 4, 4, 1}, 1, 0.7)}).toTensor().equal(wanted));
}

TEST(Adapting, MeanAndVarianceOfTheRows) {
  auto architecture = sequential({3}, {{keras::Normalization{}, {3}}, {dense(1), {1}}});
  ASSERT_TRUE(wants_adapting(architecture));
  ASSERT_TRUE(adapt(architecture, waves({6, 3}, 2, 0.7), 1));
  EXPECT_FALSE(wants_adapting(architecture));
  const auto& norm = std::get<keras::Normalization>(architecture.layers[0].kind);
  expect_near(torch::tensor(norm.mean), {-0.002113183f, 0.00231727f, 0.005657874f});
  expect_near(torch::tensor(norm.variance), {1.989789f, 1.990351f, 2.006896f});
}

TEST(Adapting, LargeNumbersWithASmallSpreadDoNotCancel) {
  auto architecture = sequential({1}, {{keras::Normalization{}, {1}}});
  const auto x = torch::tensor({8'000'000.f, 8'000'001.f, 8'000'002.f, 8'000'003.f}).reshape({4, 1});
  ASSERT_TRUE(adapt(architecture, x, 1));
  const auto& norm = std::get<keras::Normalization>(architecture.layers[0].kind);
  EXPECT_DOUBLE_EQ(norm.mean[0], 8'000'001.5);
  EXPECT_DOUBLE_EQ(norm.variance[0], 1.25);
}

TEST(Adapting, SeesWhatTheLayersBeforeLeave) {
  auto architecture = sequential({2}, {{keras::Rescaling{{10}, {1}}, {2}}, {keras::Normalization{}, {2}}});
  ASSERT_TRUE(adapt(architecture, torch::tensor({{1.f, 2.f}, {3.f, 2.f}}), 1));
  const auto& norm = std::get<keras::Normalization>(architecture.layers[1].kind);
  EXPECT_EQ(norm.mean, (std::vector<double>{21, 21}));
  EXPECT_EQ(norm.variance, (std::vector<double>{100, 0}));
}

TEST(Initializers, GlorotStaysWithinItsLimitAndFillsIt) {
  auto network = compile(sequential({100}, {{dense(50), {50}}}), 3);
  const auto weight = network->trained[0].second.detach();
  const double limit = std::sqrt(6.0 / 150);
  EXPECT_LE(weight.abs().max().item<double>(), limit);
  EXPECT_GT(weight.abs().max().item<double>(), 0.99 * limit);
  EXPECT_NEAR(weight.var().item<double>(), limit * limit / 3, 0.05 * limit * limit / 3);
  EXPECT_TRUE(network->trained[1].second.equal(torch::zeros({50})));
}

TEST(Initializers, ConvolutionsCountTheirField) {
  auto network = compile(sequential({8, 8, 16}, {{conv(32, 3, 3), {6, 6, 32}}}), 3);
  const double limit = std::sqrt(6.0 / (9 * 16 + 9 * 32));
  const double most = network->trained[0].second.detach().abs().max().item<double>();
  EXPECT_LE(most, limit);
  EXPECT_GT(most, 0.99 * limit);
}

TEST(Initializers, TruncatedNormalKeepsTheVarianceAskedFor) {
  auto layer = dense(200);
  layer.kernel.distribution = keras::Initializer::Distribution::kTruncatedNormal;
  layer.kernel.fan = keras::Initializer::Fan::kIn;
  layer.kernel.scale = 2;
  auto network = compile(sequential({100}, {{layer, {200}}}), 3);
  const auto weight = network->trained[0].second.detach();
  const double stddev = std::sqrt(2.0 / 100);
  EXPECT_NEAR(weight.std().item<double>(), stddev, 0.02 * stddev);
  EXPECT_LE(weight.abs().max().item<double>(), 2 * stddev / 0.8796 + 1e-6);
}

TEST(Initializers, DependOnTheSeedAndTheLayerAlone) {
  const auto weights = [](std::uint64_t seed, int threads) {
    at::set_num_threads(threads);
    auto network = compile(sequential({64}, {{dense(300), {300}}, {dense(300), {300}}}), seed);
    return std::pair(network->trained[0].second.detach(), network->trained[2].second.detach());
  };
  const auto [a0, a1] = weights(5, 1);
  const auto [b0, b1] = weights(5, 2);
  const auto [c0, c1] = weights(6, 1);
  EXPECT_TRUE(a0.equal(b0) && a1.equal(b1));
  EXPECT_FALSE(a0.equal(c0));
  EXPECT_FALSE(a0.reshape(-1).narrow(0, 0, 64).equal(a1.reshape(-1).narrow(0, 0, 64)));
}

TEST(Initializers, TheirOwnSeedWins) {
  auto layer = dense(3);
  layer.kernel.seed = 42;
  auto a = compile(sequential({2}, {{layer, {3}}}), 1);
  auto b = compile(sequential({2}, {{layer, {3}}}), 2);
  EXPECT_TRUE(a->trained[0].second.equal(b->trained[0].second));
}

}  // namespace
}  // namespace slipway::trainer

#include "services/trainer/training.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <format>
#include <fstream>
#include <random>
#include <sstream>

#include "lib/base/random_id.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/safetensors.h"
#include "tests/unit/trainer/networks.h"

namespace slipway::trainer {
namespace {

using A = keras::Activation;
using K = keras::Loss::Kind;

class TorchSettings : public testing::Environment {
 public:
  void SetUp() override { start_torch(2); }
};
const auto* const kSettings = testing::AddGlobalTestEnvironment(new TorchSettings);

keras::JobSpec job(keras::Architecture architecture, K loss) {
  keras::JobSpec spec;
  spec.seed = 7;
  spec.architecture = std::move(architecture);
  spec.loss.kind = loss;
  return spec;
}

std::unique_ptr<Training> started(const keras::JobSpec& spec, const TrainingData& data, int threads = 1) {
  auto training = Training::start(spec, data, threads, "job");
  EXPECT_TRUE(training) << training.error().message;
  return std::move(*training);
}

// As if a checkpoint had been written, sent, read.
Snapshot through_bytes(const Snapshot& snapshot) {
  auto tensors = read_safetensors(*write_safetensors(snapshot.tensors));
  EXPECT_TRUE(tensors) << tensors.error().message;
  return {snapshot.state, std::move(*tensors)};
}

double metric(const std::vector<Metric>& logs, std::string_view name) {
  const auto found = std::ranges::find(logs, name, &Metric::name);
  EXPECT_NE(found, logs.end()) << name;
  return found == logs.end() ? -1 : found->value;
}

void expect_logs(const Training& training, const char* name, const std::vector<double>& wanted) {
  ASSERT_EQ(training.history().size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_NEAR(metric(training.history()[i], name), wanted[i], 3e-6) << name << " of epoch " << i;
  }
}

// Weights in Keras' layout, one after the other.
torch::Tensor keras_weights(const Network& network, std::size_t count) {
  std::vector<torch::Tensor> flat;
  for (std::size_t i = 0; i < count; ++i) {
    auto t = network.all[i].second.detach();
    if (t.dim() == 2) t = t.t();
    if (t.dim() == 4) t = t.permute({2, 3, 1, 0});
    flat.push_back(t.reshape(-1));
  }
  return torch::cat(flat);
}

TEST(Training, FitsAsKerasDoes) {
  auto regularized = dense(4, A::kTanh);
  regularized.kernel_regularizer = {0.01, 0.02};
  auto spec = job(sequential({3}, {{regularized, {4}}, {dense(1), {1}}}), K::kMeanSquaredError);
  spec.metrics = {{"mae", keras::MetricKind::kMeanAbsoluteError}};
  spec.optimizer.learning_rate = 0.01;
  spec.fit = {.epochs = 3, .batch_size = 3, .validation_split = 0.25, .shuffle = false};
  TrainingData data;
  data.x = waves({10, 3}, 1, 0.7);
  data.y = (data.x.matmul(torch::tensor({1.f, -2.f, 0.5f})) + 0.3);
  auto training = started(spec, data);
  Network network = training->network();
  fill(network);
  EXPECT_EQ(training->run({}).kind, Ending::Kind::kFinished);
  expect_logs(*training, "loss", {1.083259, 0.8724003, 0.7005253});
  expect_logs(*training, "mae", {0.7012814, 0.6335772, 0.5680308});
  expect_logs(*training, "val_loss", {0.7430642, 0.6021983, 0.4853951});
  expect_logs(*training, "val_mae", {0.5414032, 0.4892402, 0.4387475});
  expect_near(keras_weights(training->network(), 4),
              {0.310969f,    0.4062541f,  0.1323798f, -0.1403828f, -0.5688514f, -0.46692f,   -0.07301061f,
               0.4758015f,   0.4013177f,  0.122948f,  -0.3107905f, -0.4066071f, 0.3388366f,  0.372427f,
               -0.01180648f, -0.2970021f, 0.3105893f, 0.4066892f,  0.2699087f,  -0.1399855f, 0.3388341f},
              1e-5);
}

TEST(Training, FitsAConvolutionWithBatchNormalizationAsKerasDoes) {
  auto c = conv(2, 3, 3);
  c.padding = keras::Padding::kSame;
  c.activation = A::kRelu;
  auto spec = job(sequential({4, 4, 1}, {{c, {4, 4, 2}},
                                         {batch_norm(0.8), {4, 4, 2}},
                                         {keras::Pooling2D{}, {2, 2, 2}},
                                         {keras::Flatten{}, {8}},
                                         {dense(3, A::kSoftmax), {3}}}),
                  K::kSparseCategoricalCrossentropy);
  spec.metrics = {{"accuracy", keras::MetricKind::kSparseCategoricalAccuracy}};
  spec.optimizer.kind = keras::Optimizer::Kind::kSgd;
  spec.optimizer.learning_rate = 0.1;
  spec.optimizer.momentum = 0.9;
  spec.fit = {.epochs = 2, .batch_size = 4, .validation_split = 0, .shuffle = false};
  TrainingData data;
  data.x = waves({8, 4, 4, 1}, 1, 0.37);
  data.y = torch::tensor({0, 1, 2, 0, 1, 2, 0, 1}, torch::kInt64);
  auto training = started(spec, data);
  Network network = training->network();
  fill(network);
  EXPECT_EQ(training->run({}).kind, Ending::Kind::kFinished);
  expect_logs(*training, "loss", {1.121197, 1.072824});
  expect_logs(*training, "accuracy", {0.375, 0.5});
  expect_near(keras_weights(training->network(), 6),
              {0.4236149f, 0.4558834f, 0.2471804f, -0.2505629f, -0.5087629f, -0.396416f,  -0.007420721f,
               0.4908065f, 0.4430405f, 0.2901197f, -0.2630976f, -0.3826894f, -0.3685784f, 0.02969223f,
               0.3678331f, 0.47811f,   0.2063094f, -0.236734f,  0.4259905f,  0.4591921f,  0.4167445f,
               0.3985096f, 0.4814659f, 0.3746876f, 0.4613407f,  0.4508254f,  0.4447821f,  0.3971832f},
              1e-5);
}

TEST(Training, KeepsBackTheLastRowsRoundedDown) {
  auto spec = job(sequential({1}, {{dense(1), {1}}}), K::kMeanSquaredError);
  TrainingData data;
  data.x = torch::ones({3, 1});
  data.y = torch::ones({3});
  spec.fit.validation_split = 0.9;
  EXPECT_EQ(Training::start(spec, data, 1, "job").error().path, "$.fit.validation_split");
}

// Everything that has state: dropout, BatchNormalization, a plateau, best weights, a short last batch, images in u8.
keras::JobSpec stateful_job(const keras::Optimizer& optimizer) {
  auto c = conv(3, 2, 2);
  c.activation = A::kRelu;
  auto spec = job(sequential({5, 5, 1}, {{keras::Rescaling{{1.0 / 255}, {0}}, {5, 5, 1}},
                                         {c, {4, 4, 3}},
                                         {batch_norm(0.9), {4, 4, 3}},
                                         {keras::Pooling2D{}, {2, 2, 3}},
                                         {keras::Flatten{}, {12}},
                                         {dense(8, A::kRelu), {8}},
                                         {dropout(0.3), {8}},
                                         {dense(4, A::kSoftmax), {4}}}),
                  K::kSparseCategoricalCrossentropy);
  spec.metrics = {{"accuracy", keras::MetricKind::kSparseCategoricalAccuracy}};
  spec.optimizer = optimizer;
  spec.fit = {.epochs = 5, .batch_size = 16, .validation_split = 0.2, .shuffle = true};
  keras::ReduceLROnPlateau plateau;
  plateau.factor = 0.5;
  plateau.patience = 1;
  plateau.min_delta = 0.5;
  keras::EarlyStopping stop;
  stop.patience = 100;
  stop.restore_best_weights = true;
  spec.callbacks = {plateau, stop};
  return spec;
}

TrainingData wavy_images() {
  TrainingData data;
  data.x = waves({131, 5, 5, 1}, 100, 0.37).add(128).to(torch::kUInt8);
  data.y = waves({131}, 100, 1.3).abs().to(torch::kInt64).remainder(4);
  return data;
}

void expect_same_weights(const Training& a, const Training& b) {
  const auto& left = a.network().all;
  const auto& right = b.network().all;
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].first, right[i].first);
    EXPECT_TRUE(left[i].second.equal(right[i].second)) << left[i].first;
  }
}

class Resuming : public testing::TestWithParam<int> {};

TEST_P(Resuming, EndsInTheSameWeightsBitForBit) {
  using O = keras::Optimizer::Kind;
  std::vector<keras::Optimizer> all(8);
  all[0].kind = O::kSgd;
  all[0].learning_rate = 0.05;
  all[1] = all[0];
  all[1].momentum = 0.9;
  all[2] = all[1];
  all[2].nesterov = true;
  all[3].learning_rate = 0.01;
  all[4].amsgrad = true;
  all[5].kind = O::kAdamW;
  all[5].weight_decay = 0.004;
  all[6].kind = O::kRmsprop;
  all[7] = all[6];
  all[7].momentum = 0.5;
  all[7].centered = true;
  all[7].epsilon = 1e-3;
  const auto spec = stateful_job(all[static_cast<std::size_t>(GetParam())]);
  const auto data = wavy_images();

  auto whole = started(spec, data);
  ASSERT_EQ(whole->run({}).kind, Ending::Kind::kFinished);

  std::mt19937 random(static_cast<unsigned>(GetParam()));
  auto broken = started(spec, data);
  int parts = 1;
  for (;;) {
    int left = std::uniform_int_distribution(1, 9)(random);
    Observer observer;
    observer.keep_going = [&] { return --left > 0; };
    if (broken->run(observer).kind == Ending::Kind::kFinished) break;
    const auto snapshot = through_bytes(broken->snapshot());
    torch::manual_seed(parts);  // another process' generator is somewhere else
    auto resumed = Training::resume(spec, data, snapshot, "job");
    ASSERT_TRUE(resumed) << resumed.error().message;
    EXPECT_EQ((*resumed)->step(), broken->step());
    broken = std::move(*resumed);
    ++parts;
  }
  EXPECT_GT(parts, 4);
  expect_same_weights(*whole, *broken);
  EXPECT_EQ(whole->history(), broken->history());
  EXPECT_LT(metric(whole->history().back(), "learning_rate"), spec.optimizer.learning_rate);
}

INSTANTIATE_TEST_SUITE_P(EveryOptimizer, Resuming, testing::Range(0, 8));

TEST(Training, ASnapshotTakenOnTheWayChangesNothing) {
  const auto spec = stateful_job({});
  auto whole = started(spec, wavy_images());
  (void)whole->run({});
  auto watched = started(spec, wavy_images());
  Snapshot last;
  Observer observer;
  observer.keep_going = [&] {
    if (watched->epoch() == 2 && watched->step() == 3) last = watched->snapshot();
    return true;
  };
  (void)watched->run(observer);
  expect_same_weights(*whole, *watched);
  auto resumed = Training::resume(spec, wavy_images(), through_bytes(last), "job");
  ASSERT_TRUE(resumed) << resumed.error().message;
  (void)(*resumed)->run({});
  expect_same_weights(*whole, **resumed);
}

TEST(Training, ASnapshotOfAnotherJobIsRefused) {
  const auto spec = stateful_job({});
  auto training = started(spec, wavy_images());
  const auto snapshot = training->snapshot();
  EXPECT_EQ(Training::resume(spec, wavy_images(), snapshot, "another").error().code, Code::kDataLoss);
  auto without = snapshot;
  without.tensors.pop_back();
  EXPECT_EQ(Training::resume(spec, wavy_images(), without, "job").error().code, Code::kDataLoss);
  auto reshaped = snapshot;
  reshaped.tensors[0].second = torch::zeros({1});
  EXPECT_EQ(Training::resume(spec, wavy_images(), reshaped, "job").error().code, Code::kDataLoss);
}

TEST(Training, DependsOnTheSeedOnly) {
  auto spec = stateful_job({});
  auto a = started(spec, wavy_images());
  auto b = started(spec, wavy_images());
  (void)a->run({});
  torch::manual_seed(99);
  (void)b->run({});
  expect_same_weights(*a, *b);
  spec.seed = 8;
  auto c = started(spec, wavy_images());
  (void)c->run({});
  EXPECT_FALSE(a->network().all[0].second.equal(c->network().all[0].second));
}

TEST(Training, KeepsItsThreadsWhenResumed) {
  auto wide = job(sequential({784}, {{dense(2000), {2000}}, {dense(10, A::kSoftmax), {10}}}),
                  K::kSparseCategoricalCrossentropy);
  TrainingData data;
  data.x = waves({64, 784}, 1, 0.01);
  data.y = torch::zeros({64}, torch::kInt64);
  auto training = started(wide, data, 2);
  EXPECT_EQ(training->threads(), 2);
  auto resumed = Training::resume(wide, data, training->snapshot(), "job");
  ASSERT_TRUE(resumed);
  EXPECT_EQ((*resumed)->threads(), 2);
  EXPECT_EQ(worthwhile_threads(sequential({784}, {{dense(512), {512}}, {dense(10), {10}}}), 32, 8), 1);
}

TEST(Training, FrozenLayersStayAsTheyAre) {
  auto spec = job(sequential({3}, {{dense(4), {4}, false}, {dense(1), {1}}}), K::kMeanSquaredError);
  TrainingData data;
  data.x = waves({20, 3}, 1, 0.7);
  data.y = waves({20}, 1, 0.3);
  auto training = started(spec, data);
  const auto before = training->network().all[0].second.clone();
  const auto other = training->network().all[2].second.detach().clone();
  (void)training->run({});
  EXPECT_TRUE(training->network().all[0].second.equal(before));
  EXPECT_FALSE(training->network().all[2].second.equal(other));
}

TEST(Training, EndsWhenTheLossIsNotANumber) {
  auto spec = job(sequential({1}, {{dense(1), {1}}}), K::kMeanSquaredError);
  spec.optimizer.kind = keras::Optimizer::Kind::kSgd;
  spec.optimizer.learning_rate = 1e30;
  spec.fit.epochs = 100;
  TrainingData data;
  data.x = waves({64, 1}, 100, 0.7);
  data.y = waves({64}, 1, 0.3);
  auto without = started(spec, data);
  EXPECT_EQ(without->run({}).kind, Ending::Kind::kNotANumber);
  spec.callbacks = {keras::TerminateOnNaN{}};
  auto with = started(spec, data);
  const auto ending = with->run({});
  EXPECT_EQ(ending.kind, Ending::Kind::kNotANumber);
  EXPECT_LT(with->epoch(), 10);
  EXPECT_FALSE(ending.message.empty());
}

TEST(Training, PublishesTheBestWeightsWhenAsked) {
  auto spec = job(sequential({1}, {{dense(1), {1}}}), K::kMeanSquaredError);
  spec.optimizer.kind = keras::Optimizer::Kind::kSgd;
  spec.optimizer.learning_rate = 1.01;  // too fast: every epoch is worse than the one before
  spec.fit = {.epochs = 4, .batch_size = 8, .validation_split = 0.5, .shuffle = false};
  keras::EarlyStopping stop;
  stop.patience = 100;
  stop.restore_best_weights = true;
  spec.callbacks = {stop};
  TrainingData data;
  data.x = torch::ones({16, 1});
  data.y = torch::full({16}, 3.f);
  auto training = started(spec, data);
  torch::Tensor after_first;
  Observer observer;
  observer.on_epoch = [&](const Progress& p, const std::string&) {
    if (p.epoch == 1) after_first = training->network().all[0].second.detach().clone();
  };
  (void)training->run(observer);
  EXPECT_EQ(training->history().size(), 4u);
  EXPECT_TRUE(training->network().all[0].second.equal(after_first));
  EXPECT_EQ(training->final_logs(), training->history()[0]);
}

TEST(Training, AdaptsNormalizationToTheTrainingRowsOnly) {
  auto spec = job(sequential({1}, {{keras::Normalization{}, {1}}, {dense(1), {1}}}), K::kMeanSquaredError);
  spec.fit.validation_split = 0.5;
  TrainingData data;
  data.x = torch::tensor({1.f, 3.f, 100.f, 200.f}).reshape({4, 1});
  data.y = torch::ones({4});
  auto training = started(spec, data);
  EXPECT_EQ(training->network().all[0].first, "layer_0.mean");
  EXPECT_EQ(training->network().all[0].second.item<float>(), 2);
  EXPECT_EQ(training->network().all[1].second.item<float>(), 1);
}

TEST(Training, TestsOnTheTestSet) {
  auto spec = job(sequential({2}, {{dense(2, A::kSoftmax), {2}}}), K::kSparseCategoricalCrossentropy);
  spec.metrics = {{"accuracy", keras::MetricKind::kSparseCategoricalAccuracy}};
  TrainingData data;
  data.x = torch::eye(2);
  data.y = torch::tensor({0, 1}, torch::kInt64);
  EXPECT_TRUE(started(spec, data)->test().empty());
  data.test_x = torch::eye(2).repeat({300, 1});
  data.test_y = torch::tensor({0, 1}, torch::kInt64).repeat({300});
  spec.fit.epochs = 200;
  spec.optimizer.learning_rate = 0.1;
  auto training = started(spec, data);
  (void)training->run({});
  const auto logs = training->test();
  EXPECT_EQ(metric(logs, "test_accuracy"), 1);
  EXPECT_LT(metric(logs, "test_loss"), 0.1);
}

TEST(Training, TheSignatureNamesWhatTheModelTakesAndGives) {
  auto spec = job(sequential({2}, {{dense(3, A::kSoftmax), {3}, true, "out"}}), K::kSparseCategoricalCrossentropy);
  TrainingData data;
  data.x = torch::eye(2);
  data.y = torch::tensor({0, 1}, torch::kInt64);
  data.classes = {"cat", "dog"};
  const auto signature = started(spec, data)->signature();
  EXPECT_EQ(signature.inputs, (std::vector<TensorSpec>{{"input_layer", DType::kF32, {-1, 2}}}));
  EXPECT_EQ(signature.outputs, (std::vector<TensorSpec>{{"out", DType::kF32, {-1, 3}}}));
  EXPECT_EQ(signature.classes, (std::vector<std::string>{"cat", "dog", "2"}));
}

TEST(Training, PythonOpensTheSavedModuleAndAnswersTheSame) {
  auto training = started(stateful_job({}), wavy_images());
  (void)training->run({});
  const auto archive = training->save_module();
  const auto path = std::filesystem::temp_directory_path() / ("slipway-module-" + random_hex() + ".pt");
  std::ofstream(path, std::ios::binary) << archive;
  const std::string script = std::format(
      "import torch; m = torch.jit.load('{}'); assert not m.training; "
      "x = (torch.arange(1, 76) * 3 % 256).float().reshape(3, 5, 5, 1); "
      "print(*[v.hex() for v in m(x).flatten().tolist()], *m.state_dict())",
      path.string());
  FILE* python = popen(std::format("python3 -c \"{}\"", script).c_str(), "r");
  ASSERT_NE(python, nullptr);
  std::string said;
  char buffer[4096];
  while (const auto n = fread(buffer, 1, sizeof buffer, python)) said.append(buffer, n);
  EXPECT_EQ(pclose(python), 0);
  std::filesystem::remove(path);

  std::istringstream in(archive);
  auto module = torch::jit::load(in);
  const auto x = (torch::arange(1, 76) * 3).remainder(256).to(torch::kFloat32).reshape({3, 5, 5, 1});
  const auto wanted = module.forward({x}).toTensor().reshape(-1);
  std::istringstream words(said);
  for (std::int64_t i = 0; i < wanted.numel(); ++i) {
    std::string word;
    words >> word;
    EXPECT_NEAR(std::strtod(word.c_str(), nullptr), wanted[i].item<double>(), 1e-6);
  }
  EXPECT_NE(said.find("layer_2.running_mean"), std::string::npos) << said;
}

// Debian's fuser, left on, never comes back from the third backward pass of this one (README, "Torch settings").
TEST(Training, TheFuserIsOff) {
  auto spec = job(
      sequential({64}, {{dense(256, A::kRelu), {256}}, {dense(256, A::kRelu), {256}}, {dense(10, A::kSoftmax), {10}}}),
      K::kSparseCategoricalCrossentropy);
  TrainingData data;
  data.x = waves({160, 64}, 1, 0.7);
  data.y = torch::arange(0, 160, torch::kInt64).remainder(10);
  EXPECT_EQ(started(spec, data)->run({}).kind, Ending::Kind::kFinished);
}

}  // namespace
}  // namespace slipway::trainer

#include "services/trainer/attempt.h"

#include <gmock/gmock.h>
#include <torch/script.h>

#include <filesystem>
#include <format>
#include <fstream>
#include <sstream>

#include "lib/base/random_id.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/trainer_server.h"
#include "tests/unit/trainer/fake_registry.h"

namespace slipway::trainer {
namespace {

using namespace std::chrono_literals;

class TorchSettings : public testing::Environment {
 public:
  void SetUp() override { start_torch(1); }
};
const auto* const kSettings = testing::AddGlobalTestEnvironment(new TorchSettings);

std::string document(int epochs, double rate = 0.01) {
  return std::format(R"({{"publish": {{"model": "m"}}, "dataset": {{"name": "d", "target": "y"}}, "seed": 3,
    "model": {{"class_name": "Sequential", "config": {{"name": "s", "layers": [
      {{"class_name": "InputLayer", "config": {{"name": "in", "batch_input_shape": [null, 2], "dtype": "float32"}}}},
      {{"class_name": "Dense", "config": {{"name": "h", "units": 8, "activation": "tanh"}}}},
      {{"class_name": "Dropout", "config": {{"name": "drop", "rate": 0.1}}}},
      {{"class_name": "Dense", "config": {{"name": "out", "units": 1}}}}]}}}},
    "compile": {{"optimizer": {{"class_name": "{}", "config": {{"learning_rate": {}}}}}, "loss": "mse"}},
    "fit": {{"epochs": {}, "batch_size": 8, "validation_split": 0.25}}}})",
                     rate > 1 ? "SGD" : "Adam", rate, epochs);
}

class Attempts : public testing::Test {
 protected:
  Attempts() : folder_(std::filesystem::temp_directory_path() / ("slipway-attempt-" + random_hex())) {
    std::string csv = "a,b,y\n";
    for (int i = 0; i < 40; ++i) csv += std::format("{},{},{}\n", i % 7, i % 5, (i % 7) - 2 * (i % 5));
    registry_.dataset.name = "d";
    registry_.dataset.version = 1;
    registry_.dataset.format = "csv";
    registry_.dataset.rows = 40;
    registry_.dataset.row_shape = {3};
    for (const auto& [name, low, high] : {std::tuple("a", 0, 6), std::tuple("b", 0, 4), std::tuple("y", -8, 6)}) {
      Column column;
      column.name = name;
      column.min = low;
      column.max = high;
      column.integral = true;
      registry_.dataset.columns.push_back(column);
    }
    registry_.dataset.files = {registry_.store("data.csv", csv)};
  }
  ~Attempts() override { std::filesystem::remove_all(folder_); }

  static msg::RunJob order(const std::string& text) {
    msg::RunJob order;
    order.job.id = JobId("j1");
    order.job.document = text;
    order.job.dataset = "d";
    order.job.dataset_version = 1;
    order.job.seed = 3;
    order.job.attempt = 1;
    order.lease = {JobId("j1"), 1, WorkerId("w"), 2000};
    return order;
  }
  std::unique_ptr<Attempt> attempt(const std::string& text, double checkpoint_seconds = 1000,
                                   std::uint64_t memory_bytes = 0) {
    return std::make_unique<Attempt>(
        caller_, order(text),
        AttemptSettings{folder_, 1, std::chrono::duration<double>(checkpoint_seconds), memory_bytes});
  }
  std::vector<torch::Tensor> published_weights() {
    std::istringstream in(registry_.module);
    std::vector<torch::Tensor> weights;
    for (const auto& p : torch::jit::load(in).named_parameters()) weights.push_back(p.value.detach());
    return weights;
  }

  const std::filesystem::path folder_;
  FakeRegistry registry_;
  Bus bus_;
  Caller caller_{bus_, registry_.address()};
};

TEST_F(Attempts, EndInAPublishedVersion) {
  EXPECT_EQ(attempt(document(3))->run(), AttemptEnd::kPublished);
  ASSERT_EQ(registry_.published.size(), 1u);
  const auto& publish = registry_.published[0];
  EXPECT_EQ(publish.lease.epoch, 1u);
  EXPECT_EQ(publish.signature.inputs, (std::vector<TensorSpec>{{"in", DType::kF32, {-1, 2}}}));
  EXPECT_EQ(publish.signature.outputs, (std::vector<TensorSpec>{{"out", DType::kF32, {-1, 1}}}));
  EXPECT_TRUE(publish.signature.classes.empty());
  ASSERT_EQ(publish.metrics.size(), 2u);
  EXPECT_EQ(publish.metrics[0].name, "loss");
  EXPECT_EQ(publish.metrics[1].name, "val_loss");
  std::istringstream in(registry_.module);
  auto module = torch::jit::load(in);
  EXPECT_FALSE(module.is_training());
  EXPECT_EQ(module.forward({torch::zeros({5, 2})}).toTensor().sizes(), torch::IntArrayRef({5, 1}));
  EXPECT_TRUE(registry_.ended.empty());
}

TEST_F(Attempts, ReleasedOnesLeaveACheckpointFromWhichTheNextEndsTheSame) {
  const auto text = document(600);
  EXPECT_EQ(attempt(text)->run(), AttemptEnd::kPublished);
  const auto whole = published_weights();

  auto first = attempt(text, 0.01);
  registry_.on_checkpoint = [&first] { first->release(); };
  EXPECT_EQ(first->run(), AttemptEnd::kReleased);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].outcome, msg::Outcome::kReleased);
  EXPECT_GE(registry_.checkpoints, 2);  // the one on the way and the last one
  EXPECT_EQ(registry_.published.size(), 1u);

  registry_.on_checkpoint = {};
  EXPECT_EQ(attempt(text)->run(), AttemptEnd::kPublished);
  const auto resumed = published_weights();
  ASSERT_EQ(whole.size(), resumed.size());
  for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(whole[i].equal(resumed[i]));
  EXPECT_EQ(registry_.published[0].metrics, registry_.published[1].metrics);
}

TEST_F(Attempts, EndWhenTheRegistryCancels) {
  registry_.cancel = true;
  EXPECT_EQ(attempt(document(100'000))->run(), AttemptEnd::kCancelled);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].outcome, msg::Outcome::kCancelled);
}

TEST_F(Attempts, WriteNothingMoreOnceTheLeaseIsLost) {
  registry_.refuse_reports = true;
  EXPECT_EQ(attempt(document(100'000))->run(), AttemptEnd::kLost);
  EXPECT_TRUE(registry_.ended.empty());
  EXPECT_TRUE(registry_.published.empty());
}

TEST_F(Attempts, ARefusedCheckpointMeansThatTheLeaseIsLost) {
  registry_.refuse_checkpoints = true;
  EXPECT_EQ(attempt(document(100'000), 0.01)->run(), AttemptEnd::kLost);
  EXPECT_TRUE(registry_.ended.empty());
}

TEST_F(Attempts, PublishUntilThereIsAnAnswer) {
  registry_.deaf_to_publishes = 1;
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kPublished);
  EXPECT_EQ(registry_.published.size(), 1u);
}

TEST_F(Attempts, FailWithTheirReason) {
  EXPECT_EQ(attempt("{")->run(), AttemptEnd::kFailed);
  EXPECT_EQ(attempt(document(50, 1e30))->run(), AttemptEnd::kFailed);
  registry_.dataset.name = "another";
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 3u);
  const std::vector<std::string> reasons{"USER_ERROR", "NAN_LOSS", "DATA_ERROR"};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(registry_.ended[i].outcome, msg::Outcome::kFailed);
    EXPECT_EQ(registry_.ended[i].reason, reasons[i]);
    EXPECT_FALSE(registry_.ended[i].retry);
    EXPECT_FALSE(registry_.ended[i].message.empty());
  }
}

TEST_F(Attempts, AJobTooLargeForTheMemoryFailsBeforeItIsBuilt) {
  EXPECT_EQ(attempt(document(1), 1000, 1000)->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "OOM");
  EXPECT_FALSE(registry_.ended[0].retry);
  EXPECT_THAT(registry_.ended[0].message, testing::HasSubstr("33 parameters"));
  EXPECT_EQ(attempt(document(1), 1000, 10'000)->run(), AttemptEnd::kPublished);
}

TEST_F(Attempts, ADamagedCheckpointIsAWarningAndANewStart) {
  registry_.checkpoint = {registry_.store("state.json", "{}"), registry_.store("tensors.safetensors", "12345678")};
  EXPECT_EQ(attempt(document(2))->run(), AttemptEnd::kPublished);
  ASSERT_FALSE(registry_.events.empty());
  EXPECT_EQ(registry_.events[0].kind, "warning");
}

TEST_F(Attempts, ADiskThatTakesNothingEndsTheAttemptForAnotherTry) {
  std::ofstream(folder_) << "a file where the folder should be";
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "INTERNAL");
  EXPECT_TRUE(registry_.ended[0].retry);
}

TEST_F(Attempts, AReportIsToldAgainUnchangedUntilItIsAnswered) {
  registry_.deaf_to_reports = 2;
  JobEvent first;
  first.kind = "epoch";
  JobEvent second = first;
  second.message = "came while the first was not answered";
  LeaseReporter reporter(caller_, order("").lease, "");
  reporter.add(first);
  while (true) {
    const std::lock_guard lock(registry_.mutex);
    if (!registry_.events.empty()) break;
  }
  reporter.add(second);
  reporter.flush(20s);
  const std::lock_guard lock(registry_.mutex);
  std::erase_if(registry_.reports, [](const auto& events) { return events.empty(); });
  EXPECT_EQ(registry_.reports, (std::vector<std::vector<JobEvent>>{{first}, {first}, {first}, {second}}));
}

TEST_F(Attempts, ReportEpochsInOrder) {
  EXPECT_EQ(attempt(document(4))->run(), AttemptEnd::kPublished);
  // Publishing ends the job, so what was still waiting then is not sent: the order is what counts.
  std::uint32_t last = 0;
  for (const auto& event : registry_.events) {
    if (event.kind != "epoch") continue;
    EXPECT_EQ(event.progress.epoch, ++last);
    EXPECT_EQ(event.progress.epochs, 4u);
    EXPECT_EQ(event.progress.metrics.back().name, "val_loss");
  }
  EXPECT_EQ(last, 4u);
}

// A gateway that welcomes, then orders two jobs.
TEST_F(Attempts, AServerTakesOneJobAtATime) {
  std::mutex mutex;
  std::condition_variable changed;
  std::string peer;
  std::vector<msg::Heartbeat> beats;
  std::map<std::uint64_t, msg::Body> answers;
  Bus gateway;
  SocketId socket{};
  const auto send = [&](msg::Body body, std::uint64_t correlation) {
    Message message;
    message.envelope.correlation = correlation;
    message.envelope.body = std::move(body);
    gateway.send(socket, peer, std::move(message));
  };
  auto bound = gateway.bind_router("127.0.0.1:0", [&](Incoming in) {
    const std::lock_guard lock(mutex);
    auto& body = in.message.envelope.body;
    if (std::holds_alternative<msg::Hello>(body)) {
      peer = in.peer;
      socket = in.socket;
      send(msg::Welcome{"g"}, 0);
    } else if (auto* beat = std::get_if<msg::Heartbeat>(&body)) {
      beats.push_back(*beat);
    } else {
      answers[in.message.envelope.correlation] = std::move(body);
    }
    changed.notify_all();
  });
  ASSERT_TRUE(bound);
  const auto wait = [&](auto condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 20s, condition);
  };

  TrainerServer::Options options;
  options.gateways = {"127.0.0.1:" + std::to_string(gateway.port(*bound))};
  options.registry = registry_.address();
  options.attempt = {folder_, 1, 1000s};
  auto server = TrainerServer::start(std::move(options));
  ASSERT_TRUE(server);
  ASSERT_TRUE(wait([&] { return !beats.empty() && beats.back().credits == 1; }));
  EXPECT_EQ((*server)->not_ready(), "");

  send(order(document(100'000)), 7);
  ASSERT_TRUE(wait([&] { return answers.contains(7) && beats.back().credits == 0; }));
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(answers[7]));

  auto second = order(document(1));
  second.lease.job = second.job.id = JobId("j2");
  send(second, 8);
  send(order(document(100'000)), 9);  // the first again: its answer was lost
  send(msg::Infer{}, 10);
  ASSERT_TRUE(wait([&] { return answers.size() == 4; }));
  EXPECT_EQ(std::get<msg::Error>(answers[8]).code, static_cast<std::uint8_t>(Code::kOverloaded));
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(answers[9]));
  EXPECT_EQ(std::get<msg::Error>(answers[10]).code, static_cast<std::uint8_t>(Code::kUnsupported));

  EXPECT_TRUE((*server)->drain(20s));
  EXPECT_EQ((*server)->not_ready(), "stopping");
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].outcome, msg::Outcome::kReleased);
  EXPECT_EQ(registry_.ended[0].lease.job, JobId("j1"));
}

}  // namespace
}  // namespace slipway::trainer

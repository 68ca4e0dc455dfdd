#include "services/trainer/attempt.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <torch/script.h>

#include <filesystem>
#include <format>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "lib/base/random_id.h"
#include "lib/base/sha256.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/trainer_server.h"
#include "tests/support/message_forms.h"
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
  static constexpr const char* kToken = "5ec2e7a95ec2e7a95ec2e7a95ec2e7a9";

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
    order.lease = {JobId("j1"), 1, WorkerId("w"), 2000, kToken};
    return order;
  }
  AttemptSettings settings(double checkpoint_seconds = 1000, std::uint64_t memory_bytes = 0) const {
    AttemptSettings settings;
    settings.work_dir = folder_;
    settings.checkpoint_every = std::chrono::duration<double>(checkpoint_seconds);
    settings.memory_bytes = memory_bytes;
    return settings;
  }
  std::unique_ptr<Attempt> attempt(const std::string& text, double checkpoint_seconds = 1000,
                                   std::uint64_t memory_bytes = 0) {
    return std::make_unique<Attempt>(caller_, order(text), settings(checkpoint_seconds, memory_bytes));
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
  const auto text = document(2000);  // longer than the least time between checkpoints
  EXPECT_EQ(attempt(text)->run(), AttemptEnd::kPublished);
  const auto whole = published_weights();

  auto first = attempt(text, 0.01);
  registry_.on_checkpoint = [&first] { first->release(); };
  EXPECT_EQ(first->run(), AttemptEnd::kReleased);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].outcome, msg::Outcome::kReleased);
  EXPECT_GE(registry_.checkpoints, 2);  // the one on the way and the last one
  EXPECT_EQ(std::ranges::count(registry_.events, "checkpoint", &JobEvent::kind), registry_.checkpoints);
  EXPECT_EQ(registry_.open_uploads(), 0u);
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

TEST_F(Attempts, SendTheModelAgainWhenTheRegistryNoLongerHasTheUpload) {
  registry_.restarts_at_publishes = 1;
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kPublished);
  EXPECT_EQ(registry_.opened, 2);
  EXPECT_EQ(registry_.published.size(), 1u);
  EXPECT_FALSE(published_weights().empty());
}

TEST_F(Attempts, AFailedUploadIsGivenUpAndTriedAgainWithPauses) {
  registry_.refuse_parts = 2;
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kPublished);
  EXPECT_EQ(registry_.opened, 3);
  EXPECT_EQ(registry_.open_uploads(), 0u);
}

TEST_F(Attempts, ACheckpointThatIsNotTakenLeavesNoUploadOpen) {
  registry_.unready_for_checkpoints = 1;
  Snapshot snapshot;
  snapshot.state = "{}";
  const auto lease = order("").lease;
  EXPECT_EQ(commit_checkpoint(caller_, lease, snapshot).error().code, Code::kUnavailable);
  // Answers come in order, so the registry has heard of the end of the first upload when it answers the second.
  EXPECT_TRUE(commit_checkpoint(caller_, lease, snapshot));
  EXPECT_EQ(registry_.opened, 2);
  EXPECT_EQ(registry_.open_uploads(), 0u);
}

TEST_F(Attempts, ShowTheLeasesTokenWithEveryCallAndNowhereElse) {
  std::ostringstream log;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  auto first = attempt(document(2000), 0.1);
  registry_.on_checkpoint = [&first] { first->release(); };
  EXPECT_EQ(first->run(), AttemptEnd::kReleased);
  registry_.on_checkpoint = {};
  EXPECT_EQ(attempt(document(1))->run(), AttemptEnd::kPublished);
  spdlog::set_default_logger(usual);

  EXPECT_GE(registry_.leases.size(), 4u);  // a report, a checkpoint, an end, a publish
  for (const auto& lease : registry_.leases) EXPECT_EQ(lease, order("").lease);
  EXPECT_THAT(log.str(), testing::HasSubstr("attempt started"));
  EXPECT_THAT(log.str(), testing::Not(testing::HasSubstr(kToken)));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    EXPECT_THAT(std::string(std::istreambuf_iterator<char>(in), {}), testing::Not(testing::HasSubstr(kToken)));
  }
}

TEST_F(Attempts, TheRequestsIdCannotForgeALineOfTheLog) {
  std::ostringstream log;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  auto hostile = order(document(1));
  hostile.job.request_id = "a\nattempt ended job=j9";
  EXPECT_EQ(Attempt(caller_, hostile, settings()).run(), AttemptEnd::kPublished);
  spdlog::set_default_logger(usual);
  EXPECT_THAT(log.str(), testing::Not(testing::HasSubstr("\nattempt ended job=j9")));
}

TEST_F(Attempts, TheCheckpointWriterGoesOnWhenWhoeverItTellsThrows) {
  int told = 0;
  CheckpointWriter writer(caller_, order("").lease, [&told](const Result<void>&) {
    ++told;
    throw std::runtime_error("told");
  });
  for (int i = 0; i < 2; ++i) {
    Snapshot snapshot;
    snapshot.state = "{}";
    writer.submit(std::move(snapshot));
    writer.wait();
  }
  EXPECT_EQ(told, 2);
  EXPECT_EQ(registry_.checkpoints, 2);
}

// The record of the data set says that y is a class below 3, the file knows better: torch throws in the middle.
TEST_F(Attempts, OneThatThrowsEndsAsInternalWithTheReason) {
  registry_.dataset.columns[2].min = 0;
  registry_.dataset.columns[2].max = 2;
  auto text = document(1);
  text.replace(text.find(R"("units": 1})"), 11, R"("units": 3, "activation": "softmax"})");
  text.replace(text.find(R"("mse")"), 5, R"("sparse_categorical_crossentropy")");
  EXPECT_EQ(attempt(text)->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "INTERNAL");
  EXPECT_THAT(registry_.ended[0].message, testing::HasSubstr("out of bounds"));
}

TEST_F(Attempts, MoreClassesThanASignatureHoldsAreTheUsersToMend) {
  auto text = document(1);
  text.replace(text.find(R"("units": 1})"), 11, R"("units": 100001, "activation": "softmax"})");
  text.replace(text.find(R"("mse")"), 5, R"("sparse_categorical_crossentropy")");
  EXPECT_EQ(attempt(text)->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "USER_ERROR");
  EXPECT_THAT(registry_.ended[0].message, testing::HasSubstr("100001 classes apart, at most 100000"));
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
  EXPECT_EQ(attempt(document(1), 1000, 2000)->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "OOM");
  EXPECT_FALSE(registry_.ended[0].retry);
  EXPECT_THAT(registry_.ended[0].message, testing::HasSubstr("33 parameters"));
  EXPECT_EQ(attempt(document(1), 1000, 10'000)->run(), AttemptEnd::kPublished);
}

TEST_F(Attempts, DataTooLargeForTheMemoryIsNotEvenDownloaded) {
  registry_.dataset.size_bytes = std::uint64_t{5} << 30;
  EXPECT_EQ(attempt(document(1), 1000, std::uint64_t{4} << 30)->run(), AttemptEnd::kFailed);
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].reason, "OOM");
  EXPECT_FALSE(registry_.ended[0].retry);
  EXPECT_THAT(registry_.ended[0].message,
              testing::AllOf(testing::HasSubstr("its data 5.0 GiB"), testing::HasSubstr("4.0 GiB left")));
  EXPECT_EQ(registry_.chunks_read, 0);
}

TEST_F(Attempts, DataSetsNotInUseMakeRoomForOthers) {
  auto narrow = settings();
  narrow.cache_bytes = 2 * registry_.dataset.files[0].size_bytes;
  const auto path = [this] { return data_folder(settings()) / to_hex(registry_.dataset.files[0].digest); };
  const auto first = path();
  for (int i = 0; i < 4; ++i) {
    if (i > 0) {
      std::string csv = "a,b,y\n";
      for (int row = 0; row < 40; ++row) csv += std::format("{},{},{}\n", row % 5, row % 4, i % 3);
      registry_.dataset.files = {registry_.store("data.csv", csv)};
    }
    EXPECT_EQ(Attempt(caller_, order(document(1)), narrow).run(), AttemptEnd::kPublished);
    EXPECT_TRUE(std::filesystem::exists(path()));
  }
  EXPECT_FALSE(std::filesystem::exists(first));
  EXPECT_LE(FileCache(data_folder(narrow), narrow.cache_bytes).bytes(), narrow.cache_bytes);
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

TEST_F(Attempts, AReportIsToldAgainUnderItsNumberUntilItIsAnswered) {
  registry_.deaf_to_reports = 2;
  JobEvent event;
  event.kind = "epoch";
  LeaseReporter reporter(caller_, order("").lease, "");
  reporter.add(event);
  while (true) {
    const std::lock_guard lock(registry_.mutex);
    if (!registry_.events.empty()) break;
  }
  reporter.add(event);  // the same once more, and yet another
  reporter.flush(20s);
  const std::lock_guard lock(registry_.mutex);
  std::vector<std::uint64_t> numbers;
  for (const auto& report : registry_.reports) {
    if (report.number > 0) numbers.push_back(report.number);
  }
  EXPECT_EQ(numbers, (std::vector<std::uint64_t>{1, 1, 1, 2}));
  EXPECT_EQ(registry_.events, (std::vector<JobEvent>{event, event}));
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

// A gateway that welcomes, and a trainer that has dialled it.
class Servers : public Attempts {
 protected:
  Servers() {
    auto bound = gateway_.bind_router("127.0.0.1:0", [this](Incoming in) { on_message(std::move(in)); });
    EXPECT_TRUE(bound);
    TrainerServer::Options options;
    options.gateways = {"127.0.0.1:" + std::to_string(gateway_.port(*bound))};
    options.registry = registry_.address();
    options.cluster_secret = "sesame";
    options.attempt = settings();
    auto started = TrainerServer::start(std::move(options));
    EXPECT_TRUE(started);
    server_ = std::move(*started);
    EXPECT_TRUE(wait([this] { return idle(); }));
  }
  ~Servers() override { gateway_.stop(); }

  void send(msg::Body body, std::uint64_t correlation) {
    const std::lock_guard lock(mutex_);
    send_locked(std::move(body), correlation);
  }
  bool wait(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, condition);
  }
  bool wait_registry(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (std::chrono::steady_clock::now() < end) {
      {
        const std::lock_guard lock(registry_.mutex);
        if (condition()) return true;
      }
      std::this_thread::yield();
    }
    return false;
  }
  // Jobs of so many epochs for whoever claims.
  void queue(const std::vector<std::string>& names, int epochs) {
    const std::lock_guard lock(registry_.mutex);
    for (const auto& name : names) {
      auto waits = order(document(epochs));
      waits.lease.job = waits.job.id = JobId(name);
      registry_.waiting.push_back(std::move(waits));
    }
  }
  // Under the mutex.
  [[nodiscard]] bool idle() const { return !beats_.empty() && beats_.back().credits == 1; }
  [[nodiscard]] bool refused(std::uint64_t correlation, Code code) const {
    const auto* error = std::get_if<msg::Error>(&answers_.at(correlation));
    return error != nullptr && error->code == static_cast<std::uint8_t>(code);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string peer_, secret_;
  std::vector<msg::Heartbeat> beats_;
  std::map<std::uint64_t, msg::Body> answers_;
  SocketId socket_{};
  std::unique_ptr<TrainerServer> server_;
  Bus gateway_;

 private:
  void send_locked(msg::Body body, std::uint64_t correlation) {
    Message message;
    message.envelope.correlation = correlation;
    message.envelope.body = std::move(body);
    (void)gateway_.send(socket_, peer_, std::move(message));
  }
  void on_message(Incoming in) {
    const std::lock_guard lock(mutex_);
    auto& body = in.message.envelope.body;
    if (std::holds_alternative<msg::Hello>(body)) {
      secret_ = in.message.envelope.secret;
      peer_ = in.peer;
      socket_ = in.socket;
      send_locked(msg::Welcome{"g"}, 0);
    } else if (auto* beat = std::get_if<msg::Heartbeat>(&body)) {
      beats_.push_back(*beat);
    } else {
      answers_[in.message.envelope.correlation] = std::move(body);
    }
    changed_.notify_all();
  }
};

TEST_F(Servers, ClaimOneJobAtATime) {
  EXPECT_EQ(server_->not_ready(), "");
  ASSERT_TRUE(wait_registry([&] { return registry_.claims.size() == 1; })) << "without an offer, at the start";
  queue({"j1", "j2"}, 100'000);
  send(msg::OfferJob{JobId("j1")}, 0);
  ASSERT_TRUE(wait([&] { return beats_.back().credits == 0; }));
  send(msg::OfferJob{JobId("j2")}, 0);
  send(msg::Infer{}, 10);
  send(order(document(1)), 11);  // not by way of a gateway
  ASSERT_TRUE(wait([&] { return answers_.size() == 2; }));
  EXPECT_TRUE(refused(10, Code::kUnsupported));
  EXPECT_TRUE(refused(11, Code::kUnsupported));

  EXPECT_TRUE(server_->drain(20s));
  EXPECT_EQ(server_->not_ready(), "stopping");
  ASSERT_EQ(registry_.ended.size(), 1u);
  EXPECT_EQ(registry_.ended[0].outcome, msg::Outcome::kReleased);
  EXPECT_EQ(registry_.ended[0].lease.job, JobId("j1"));
  EXPECT_EQ(registry_.claims.size(), 2u);
  EXPECT_EQ(registry_.claims[0].worker, registry_.claims[1].worker);
  EXPECT_EQ(secret_, "sesame");
  EXPECT_EQ(registry_.secrets, std::set<std::string>{"sesame"});
}

TEST_F(Servers, ClaimTheNextJobAsSoonAsOneHasEnded) {
  queue({"j1", "j2", "j3"}, 1);
  send(msg::OfferJob{JobId("j1")}, 0);
  ASSERT_TRUE(wait_registry([&] { return registry_.published.size() == 3; }));
  EXPECT_TRUE(server_->drain(20s));
}

// The registry has leased the job; only the answer is lost.
TEST_F(Servers, AskAgainUnderTheSameNumberUntilTheClaimIsAnswered) {
  ASSERT_TRUE(wait_registry([&] { return registry_.claims.size() == 1; }));
  {
    const std::lock_guard lock(registry_.mutex);
    registry_.deaf_to_claims = 1;
  }
  queue({"j1"}, 1);
  send(msg::OfferJob{JobId("j1")}, 0);
  ASSERT_TRUE(wait_registry([&] { return registry_.published.size() == 1; }));
  EXPECT_TRUE(server_->drain(20s));
  std::vector<std::uint64_t> numbers;
  for (const auto& claim : registry_.claims) numbers.push_back(claim.number);
  numbers.resize(3);
  EXPECT_EQ(numbers, (std::vector<std::uint64_t>{1, 2, 2}));
}

TEST_F(Servers, GiveBackAJobThatComesWhileTheyStop) {
  ASSERT_TRUE(wait_registry([&] { return registry_.claims.size() == 1; }));
  queue({"j1"}, 1);
  {
    // Claimed, and answered only once the trainer has begun to stop.
    std::unique_lock lock(registry_.mutex);
    send(msg::OfferJob{JobId("j1")}, 0);
    std::jthread stopper([&] { EXPECT_TRUE(server_->drain(20s)); });
    while (server_->not_ready() != "stopping") std::this_thread::yield();
    lock.unlock();
  }
  const std::lock_guard lock(registry_.mutex);
  // Either the job was not claimed at all, or it was given back.
  EXPECT_EQ(registry_.ended.size(), registry_.claims.size() - 1);
  EXPECT_TRUE(registry_.published.empty());
}

TEST_F(Servers, OutliveEveryKindOfMessageWithEachFieldAbsent) {
  std::uint64_t correlation = 100;
  for (const auto& body : every_form()) {
    send(body, 0);
    send(body, ++correlation);
  }
  send(msg::Infer{}, ++correlation);
  ASSERT_TRUE(wait([&] { return answers_.contains(correlation); }));
}

TEST_F(Servers, OutliveJobsThatLackOneThingOrAnother) {
  const msg::RunJob whole = order(document(1));
  auto jobs = each_field_absent(whole);
  std::erase_if(jobs, [&](const auto& job) { return job.job == whole.job && job.lease == whole.lease; });
  EXPECT_GE(jobs.size(), 6U);
  // What this release does not know, and a good one behind it all.
  jobs.resize(jobs.size() + 2, whole);
  jobs[jobs.size() - 2].job.state = static_cast<JobState>(999);
  jobs.back().job.id = jobs.back().lease.job = JobId("good");
  for (std::size_t left = jobs.size(); left > 0; --left) {
    {
      const std::lock_guard lock(registry_.mutex);
      registry_.waiting.push_back(std::move(jobs[jobs.size() - left]));
    }
    send(msg::OfferJob{}, 0);
    ASSERT_TRUE(wait_registry([&] { return registry_.waiting.empty(); })) << left;
  }
  EXPECT_TRUE(wait_registry(
      [&] { return !registry_.published.empty() && registry_.published.back().lease.job == JobId("good"); }));
  EXPECT_TRUE(server_->drain(20s));
}

}  // namespace
}  // namespace slipway::trainer

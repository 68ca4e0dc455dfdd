// The whole inferencer on loopback, between a gateway and a registry played by the test.
#include "services/inferencer/server.h"

#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <future>
#include <map>
#include <mutex>

#include "lib/base/sha256.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/crash_guard.h"
#include "services/inferencer/metrics.h"
#include "tests/support/watched_log.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;

msg::Envelope answer_to(const Incoming& incoming, msg::Body body) {
  return {.correlation = incoming.message.envelope.correlation,
          .deadline_ms = 0,
          .request_id = {},
          .body = std::move(body)};
}

// Models, versions and chunks in memory.
class FakeRegistry {
 public:
  FakeRegistry() {
    router_ = *bus_.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
    publisher_ = *bus_.bind_publisher("127.0.0.1:0");
  }
  std::string calls() const { return std::format("127.0.0.1:{}", bus_.port(router_)); }
  std::string events() const { return std::format("127.0.0.1:{}", bus_.port(publisher_)); }

  StoredFile store(const std::string& bytes) {
    const Digest digest = sha256(bytes);
    const std::lock_guard lock(mutex_);
    chunks_[digest] = bytes;
    return {.name = "model.pt", .size_bytes = bytes.size(), .digest = digest, .chunks = {digest}};
  }
  void publish(const std::string& model, std::uint64_t number, const std::string& bytes, const Signature& signature,
               bool uploaded) {
    const StoredFile file = store(bytes);
    {
      const std::lock_guard lock(mutex_);
      Version version;
      version.model = model;
      version.number = number;
      version.signature = signature;
      version.files = {file};
      version.uploaded = uploaded;
      versions_[{model, number}] = version;
      models_[model].name = model;
      models_[model].latest = number;
    }
    tell(msg::Subject::kModel, model);
  }
  // As one that has been restored from a backup.
  void skip_revisions() {
    const std::lock_guard lock(mutex_);
    revision_ += 1000;
  }
  void set_unloaded(const std::string& model, bool unloaded) {
    {
      const std::lock_guard lock(mutex_);
      models_[model].unloaded = unloaded;
    }
    tell(msg::Subject::kModel, model);
  }
  // As if another inferencer had found it out, or an operator had lifted it.
  void quarantine(const std::string& bytes, const std::string& reason) {
    const Digest digest = sha256(bytes);
    {
      const std::lock_guard lock(mutex_);
      if (reason.empty()) {
        quarantines_.erase(digest);
      } else {
        quarantines_[digest] = {.digest = digest, .model = "m", .version = 1, .reason = reason, .at_ms = 0};
      }
    }
    tell(msg::Subject::kQuarantine, to_hex(digest));
  }
  void set_quarantined(const std::string& model, std::uint64_t number, const std::string& reason) {
    const std::lock_guard lock(mutex_);
    versions_[{model, number}].quarantined = reason;
  }
  std::optional<Quarantine> quarantined(const std::string& bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = quarantines_.find(sha256(bytes));
    return found == quarantines_.end() ? std::nullopt : std::optional(found->second);
  }
  // What is not taken from now on, and why.
  void refuse_quarantines(std::function<std::optional<Code>(const Quarantine&)> refuse) {
    const std::lock_guard lock(mutex_);
    refuse_quarantine_ = std::move(refuse);
  }
  // Chunks are asked for in vain from now on.
  void deafen() {
    const std::lock_guard lock(mutex_);
    deaf_ = true;
  }
  void wait_for_chunk() {
    std::unique_lock lock(mutex_);
    asked_.wait(lock, [this] { return chunk_asked_; });
  }

 private:
  void tell(msg::Subject subject, const std::string& key) {
    std::uint64_t revision = 0;
    {
      const std::lock_guard lock(mutex_);
      revision = ++revision_;
    }
    static_cast<void>(bus_.send(
        publisher_,
        {.envelope = {.correlation = 0,
                      .deadline_ms = 0,
                      .request_id = {},
                      .body =
                          msg::Changed{
                              .revision = revision, .subject = subject, .key = key, .last_event = 0, .state = {}}},
         .payload = {}}));
  }

  void on_message(Incoming incoming) {
    const std::lock_guard lock(mutex_);
    const auto& body = incoming.message.envelope.body;
    msg::Body reply = msg::Error{.code = static_cast<std::uint8_t>(Code::kNotFound),
                                 .message = "no such thing",
                                 .retry_after_ms = 0,
                                 .path = {}};
    std::vector<Frame> payload;
    if (std::holds_alternative<msg::ListModels>(body)) {
      msg::Models all;
      for (const auto& [name, model] : models_) all.items.push_back(model);
      reply = all;
    } else if (const auto* get = std::get_if<msg::GetModel>(&body)) {
      if (models_.contains(get->model)) reply = msg::Models{.items = {models_[get->model]}};
    } else if (const auto* wanted = std::get_if<msg::GetVersion>(&body)) {
      const auto found = versions_.find({wanted->model, wanted->version});
      if (found != versions_.end()) reply = msg::Versions{.items = {found->second}};
    } else if (const auto* file = std::get_if<msg::QuarantineFile>(&body)) {
      if (refuse_quarantine_ && refuse_quarantine_(file->quarantine)) {
        reply = to_message({.code = *refuse_quarantine_(file->quarantine), .message = "not so", .path = {}});
      } else {
        quarantines_[file->quarantine.digest] = file->quarantine;
        reply = msg::Ok{};
      }
    } else if (std::holds_alternative<msg::ListQuarantines>(body)) {
      msg::Quarantines all;
      for (const auto& [digest, quarantine] : quarantines_) all.items.push_back(quarantine);
      reply = all;
    } else if (const auto* chunk = std::get_if<msg::GetChunk>(&body)) {
      chunk_asked_ = true;
      asked_.notify_all();
      if (deaf_) return;
      const auto found = chunks_.find(chunk->digest);
      if (found != chunks_.end()) {
        reply = msg::Ok{};
        payload.push_back(Frame::copy(std::string_view(found->second)));
      }
    }
    bus_.send(incoming.socket, incoming.peer,
              {.envelope = answer_to(incoming, std::move(reply)), .payload = std::move(payload)});
  }

  std::mutex mutex_;
  std::condition_variable asked_;
  bool deaf_ = false;
  bool chunk_asked_ = false;
  std::function<std::optional<Code>(const Quarantine&)> refuse_quarantine_;
  std::map<std::string, Model> models_;
  std::map<msg::VersionKey, Version> versions_;
  std::map<Digest, std::string> chunks_;
  std::map<Digest, Quarantine> quarantines_;
  std::uint64_t revision_ = 0;
  Bus bus_;
  SocketId router_{};
  SocketId publisher_{};
};

// Welcomes whoever says hello, remembers heartbeats, asks.
class FakeGateway {
 public:
  // The worker is gone: wait for the next one's word, and answer that one.
  void forget() {
    const std::lock_guard lock(mutex_);
    beat_.reset();
    peer_.clear();
  }

  FakeGateway() {
    router_ = *bus_.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
  }
  std::string address() const { return std::format("127.0.0.1:{}", bus_.port(router_)); }

  // Heartbeats with a correlation are answered from now on after `first` has been done, once.
  void before_letting_go(std::function<void()> first) {
    const std::lock_guard lock(mutex_);
    before_letting_go_ = std::move(first);
  }

  // Waits for a heartbeat that `wanted` is true of.
  bool heard(const std::function<bool(const msg::Heartbeat&)>& wanted) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return beat_ && wanted(*beat_); });
  }
  bool ready(const msg::VersionKey& key) {
    return heard([&](const msg::Heartbeat& beat) { return std::ranges::contains(beat.loaded, key); });
  }

  std::uint64_t send(msg::Body body, std::vector<Frame> payload = {}, std::uint32_t deadline_ms = 20'000) {
    const std::lock_guard lock(mutex_);
    return send_locked(std::move(body), std::move(payload), deadline_ms);
  }
  std::uint64_t send_locked(msg::Body body, std::vector<Frame> payload, std::uint32_t deadline_ms = 20'000) {
    const auto id = ++correlation_;
    bus_.send(router_, peer_,
              {.envelope = {.correlation = id, .deadline_ms = deadline_ms, .request_id = {}, .body = std::move(body)},
               .payload = std::move(payload)});
    return id;
  }
  Message receive(std::uint64_t correlation) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, 30s, [&] { return answers_.contains(correlation); })) {
      ADD_FAILURE() << "no answer";
      return {};
    }
    return std::move(answers_.extract(correlation).mapped());
  }
  Message infer(const std::string& model, std::uint64_t version, const std::vector<float>& values,
                std::uint32_t deadline_ms = 20'000) {
    return receive(send(msg::Infer{.model = model,
                                   .version = version,
                                   .inputs = {f32("x", {static_cast<std::int64_t>(values.size()) / 2, 2})}},
                        {Frame::of(values)}, deadline_ms));
  }

 private:
  void on_message(Incoming incoming) {
    const std::lock_guard lock(mutex_);
    auto& body = incoming.message.envelope.body;
    if (std::holds_alternative<msg::Hello>(body)) {
      peer_ = incoming.peer;
      bus_.send(incoming.socket, incoming.peer,
                {.envelope = answer_to(incoming, msg::Welcome{.gateway_id = "g"}), .payload = {}});
    } else if (auto* beat = std::get_if<msg::Heartbeat>(&body)) {
      beat_ = *beat;
      if (incoming.message.envelope.correlation != 0) {
        if (before_letting_go_) std::exchange(before_letting_go_, nullptr)();
        bus_.send(incoming.socket, incoming.peer, {.envelope = answer_to(incoming, msg::Ok{}), .payload = {}});
      }
    } else {
      answers_[incoming.message.envelope.correlation] = std::move(incoming.message);
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string peer_;
  std::optional<msg::Heartbeat> beat_;
  std::function<void()> before_letting_go_;
  std::map<std::uint64_t, Message> answers_;
  std::uint64_t correlation_ = 0;
  Bus bus_;
  SocketId router_{};
};

class ServerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  std::string doubler() { return read_file(save_doubler(folder_)); }
  // On purpose, not for ever: a test must be able to join its thread.
  std::string slow() {
    return read_file(save_module(folder_, "slow.pt",
                                 "def forward(self, x):\n  y = torch.ones([300, 300])\n  for i in range(1000):\n"
                                 "    y = torch.matmul(y, y) * 0.0\n  return x * 2 + torch.sum(y)\n"));
  }
  void start(const std::function<void(Server::Options&)>& change = {}) {
    Server::Options options{.gateways = {gateway_.address()},
                            .registry = registry_.calls(),
                            .registry_events = registry_.events(),
                            .release = "test",
                            .program = SLIPWAY_INFERENCER,
                            .engine = {},
                            .store = {},
                            .inspect = {}};
    options.store.cache_dir = folder_.path() / "cache";
    options.max_requests = 100;
    if (change) change(options);
    auto server = Server::start(std::move(options));
    ASSERT_TRUE(server);
    server_ = std::move(*server);
  }
  static std::vector<float> values(const Message& message) {
    if (const auto* error = std::get_if<msg::Error>(&message.envelope.body)) ADD_FAILURE() << error->message;
    if (message.payload.size() != 1) return {};
    std::vector<float> out(message.payload[0].size() / 4);
    std::memcpy(out.data(), message.payload[0].data(), message.payload[0].size());
    return out;
  }
  static Code code(const Message& message) {
    const auto* error = std::get_if<msg::Error>(&message.envelope.body);
    EXPECT_NE(error, nullptr);
    return error == nullptr ? Code{} : from_message(*error).code;
  }

  Folder folder_;
  FakeRegistry registry_;
  FakeGateway gateway_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, LoadsTheLatestVersionAndAnswers) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.credits == 100 && !beat.draining; }));
  EXPECT_EQ(server_->not_ready(), "");
  const Message answer = gateway_.infer("m", 1, {1, 2, 3, 4});
  EXPECT_EQ(values(answer), (std::vector<float>{2, 4, 6, 8}));
  const auto& inferred = std::get<msg::Inferred>(answer.envelope.body);
  EXPECT_EQ(inferred.outputs, std::vector{f32("y", {2, 2})});
  EXPECT_EQ(inferred.batch_rows, 2U);
}

TEST_F(ServerTest, ANewVersionIsLoadedWhenTheRegistrySaysSo) {
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.credits > 0; }));
  registry_.publish("m", 1, doubler(), rows_of(2), false);
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  registry_.publish("m", 2, read_file(save_module(folder_, "t.pt", "def forward(self, x):\n  return x * 3\n")),
                    rows_of(2), false);
  ASSERT_TRUE(gateway_.ready({"m", 2}));
  EXPECT_EQ(values(gateway_.infer("m", 2, {1, 2})), (std::vector<float>{3, 6}));
  EXPECT_EQ(values(gateway_.infer("m", 1, {1, 2})),
            (std::vector<float>{2, 4}));  // still there: requests may be on their way
}

TEST_F(ServerTest, ANumberThatTheRegistryGivesAnewIsLoadedAnew) {
  registry_.publish("m", 1, doubler(), rows_of(2), false);
  registry_.publish("n", 1, doubler(), rows_of(2), false);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  ASSERT_TRUE(gateway_.ready({"n", 1}));
  EXPECT_EQ(values(gateway_.infer("m", 1, {1, 2})), (std::vector<float>{2, 4}));
  registry_.skip_revisions();
  registry_.publish("m", 1, read_file(save_module(folder_, "t.pt", "def forward(self, x):\n  return x * 3\n")),
                    rows_of(2), false);
  const auto is_new = [&] { return values(gateway_.infer("m", 1, {1, 2})) == std::vector<float>{3, 6}; };
  for (const auto until = std::chrono::steady_clock::now() + 60s; !is_new();) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
  }
  EXPECT_EQ(values(gateway_.infer("n", 1, {1, 2})), (std::vector<float>{2, 4}));
}

TEST_F(ServerTest, AVersionThatIsNotDesiredIsLoadedOnDemand) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  registry_.publish("m", 2, doubler(), rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 2}));
  EXPECT_EQ(values(gateway_.infer("m", 1, {1, 2})), (std::vector<float>{2, 4}));
}

TEST_F(ServerTest, AModelThatIsUnloadedIsNotLoadedAtTheStartAndNotWaitedFor) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  registry_.publish("n", 1, doubler(), rows_of(2), true);
  registry_.set_unloaded("m", true);
  start();
  ASSERT_TRUE(gateway_.ready({"n", 1}));
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.credits > 0; }));
  EXPECT_EQ(server_->not_ready(), "");
  EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.loaded.size() == 1; }));
  registry_.set_unloaded("m", false);
  EXPECT_TRUE(gateway_.ready({"m", 1}));
}

TEST_F(ServerTest, AVersionOfAModelThatIsUnloadedLeavesOnceNothingUsesIt) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  start([](Server::Options& options) { options.store.limits.linger = 0s; });
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  registry_.set_unloaded("m", true);
  EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.loaded.empty(); }));
}

TEST_F(ServerTest, AnswersALoadOnceTheVersionIsThereOrWithTheReason) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  registry_.publish("m", 2, doubler(), rows_of(2), true);
  registry_.publish("broken", 1, "this is not a model", rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 2}));
  const auto load = [&](const std::string& model, std::uint64_t version) {
    return gateway_.receive(gateway_.send(msg::LoadVersion{.version = {model, version}}));
  };
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(load("m", 2).envelope.body)) << "it was there";
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(load("m", 1).envelope.body));
  EXPECT_TRUE(gateway_.ready({"m", 1}));
  EXPECT_EQ(code(load("m", 7)), Code::kNotFound);
  const Message broken = load("broken", 1);
  ASSERT_NE(std::get_if<msg::Error>(&broken.envelope.body), nullptr);
  // Mended meanwhile: it is tried at once, whatever its back-off.
  registry_.publish("broken", 1, doubler(), rows_of(2), true);
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(load("broken", 1).envelope.body));
}

TEST_F(ServerTest, AnUnknownVersionIsNotFound) {
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.infer("m", 7, {1, 2})), Code::kNotFound);
  EXPECT_EQ(code(gateway_.infer("m", 7, {1, 2})), Code::kNotFound);  // in its back-off
}

TEST_F(ServerTest, AVersionWhoseFileIsNoModelAnswersWithTheReason) {
  registry_.publish("m", 1, "this is not a model", rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kInvalidArgument);
}

TEST_F(ServerTest, ARequestUnlikeTheSignatureIsRefused) {
  registry_.publish("m", 1, doubler(), rows_of(3), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kInvalidArgument);
}

TEST_F(ServerTest, InspectsAnUploadedFile) {
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  const Signature given{.inputs = {f32("x", {-1, 2})}, .outputs = {}, .classes = {}};
  const auto good =
      gateway_.receive(gateway_.send(msg::Inspect{.file = registry_.store(doubler()), .signature = given}));
  const auto* inspected = std::get_if<msg::Inspected>(&good.envelope.body);
  ASSERT_NE(inspected, nullptr);
  EXPECT_EQ(inspected->signature.outputs, std::vector{f32("output_0", {-1, 2})});
  EXPECT_EQ(code(gateway_.receive(gateway_.send(msg::Inspect{.file = registry_.store("garbage"), .signature = given}))),
            Code::kInvalidArgument);
}

TEST_F(ServerTest, AFaultAfterAnInspectionEndsNothing) {
  const WatchedLog log([](const std::string& line) {
    if (line.starts_with("file accepted")) throw std::runtime_error("the log is full");
  });
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  const Signature given{.inputs = {f32("x", {-1, 2})}, .outputs = {}, .classes = {}};
  for (int i = 0; i < 2; ++i) {
    const Message answer =
        gateway_.receive(gateway_.send(msg::Inspect{.file = registry_.store(doubler()), .signature = given}));
    EXPECT_TRUE(std::holds_alternative<msg::Inspected>(answer.envelope.body));
  }
  server_->stop();
}

TEST_F(ServerTest, AMessageOfAnotherKindIsUnsupported) {
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.receive(gateway_.send(msg::RunJob{}))), Code::kUnsupported);
}

std::string with_weights(const Folder& folder, std::int64_t floats) {
  return read_file(
      save_module(folder, "fat.pt", "def forward(self, x):\n  return x * self.w[0]\n",
                  [&](torch::jit::Module& module) { module.register_buffer("w", torch::full({floats}, 2.0F)); }));
}

TEST_F(ServerTest, LatestVersionsThatDoNotFitLeaveAndComeBackWhenAskedFor) {
  for (const std::string name : {"a", "b", "c"})
    registry_.publish(name, 1, with_weights(folder_, 100'000), rows_of(2), true);
  start([](Server::Options& options) { options.store.limits.max_bytes = 900'000; });
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.loaded.size() == 2; }));
  for (int round = 0; round < 2; ++round) {
    for (const std::string name : {"a", "b", "c"}) {
      EXPECT_EQ(values(gateway_.infer(name, 1, {1, 2})), (std::vector<float>{2, 4}));
      EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.loaded.size() <= 2; }));
    }
  }
  EXPECT_EQ(server_->not_ready(), "");
}

TEST_F(ServerTest, AModelLargerThanTheMemoryForModelsIsRefusedWithTheReason) {
  registry_.publish("m", 1, with_weights(folder_, 100'000), rows_of(2), true);
  start([](Server::Options& options) { options.store.model_limits.load_bytes = 300'000; });
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  const Message refused = gateway_.infer("m", 1, {1, 2});
  EXPECT_EQ(code(refused), Code::kTooLarge);
  EXPECT_TRUE(std::get<msg::Error>(refused.envelope.body).message.contains("may take 300000"));
}

TEST_F(ServerTest, AnAnswerOf256OutputsArrives) {
  Signature many = rows_of(2);
  many.outputs.clear();
  for (int i = 0; i < 256; ++i) many.outputs.push_back(f32(std::format("y{}", i), {-1, 2}));
  registry_.publish(
      "m", 1,
      read_file(save_module(folder_, "many.pt",
                            "def forward(self, x):\n  l = [x]\n  for i in range(255):\n    l.append(x + i)\n"
                            "  return l\n")),
      many, true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  const Message answer = gateway_.infer("m", 1, {1, 2});
  ASSERT_TRUE(std::holds_alternative<msg::Inferred>(answer.envelope.body));
  ASSERT_EQ(answer.payload.size(), 256U);
  float last = 0;
  std::memcpy(&last, answer.payload[255].data(), 4);
  EXPECT_EQ(last, 255);
}

// Larger than a frame may be, and as large as a message may be; one that is larger hurts nobody else.
TEST_F(ServerTest, LargeAnswersArriveAndTooLargeOnesAreRefused) {
  const auto repeated = [&](std::int64_t times) {
    return read_file(
        save_module(folder_, "large.pt", std::format("def forward(self, x):\n  return x.repeat([1, {}])\n", times)));
  };
  constexpr std::int64_t kMiB = 1 << 20;
  std::uint64_t version = 0;
  for (const std::int64_t mib : {24, 200, 257}) {
    const std::int64_t times = mib * kMiB / 8;
    registry_.publish("m", ++version, repeated(times),
                      {.inputs = {f32("x", {-1, 2})}, .outputs = {f32("y", {-1, 2 * times})}, .classes = {}}, true);
  }
  registry_.publish("other", 1, doubler(), rows_of(2), true);
  start([](Server::Options& options) { options.store.max_batch_rows = 1; });
  ASSERT_TRUE(gateway_.ready({"other", 1}));
  for (std::uint64_t large = 1; large <= 2; ++large) {
    const Message answer = gateway_.infer("m", large, {1, 2});
    ASSERT_EQ(answer.payload.size(), 1U);
    const std::size_t bytes = static_cast<std::size_t>(large == 1 ? 24 * kMiB : 200 * kMiB);
    ASSERT_EQ(answer.payload[0].size(), bytes);
    float ends[2];
    std::memcpy(&ends[0], answer.payload[0].data(), 4);
    std::memcpy(&ends[1], answer.payload[0].data() + bytes - 4, 4);
    EXPECT_EQ(ends[0], 1);
    EXPECT_EQ(ends[1], 2);
  }
  const Message refused = gateway_.infer("m", 3, {1, 2});
  EXPECT_EQ(code(refused), Code::kTooLarge);
  EXPECT_TRUE(std::get<msg::Error>(refused.envelope.body).message.contains(std::format("{} bytes", 257 * kMiB)));
  EXPECT_EQ(values(gateway_.infer("other", 1, {1, 2})), (std::vector<float>{2, 4}));
}

TEST_F(ServerTest, FilesBeyondTheCachesBudgetLeaveUnlessTheirVersionIsLoaded) {
  const auto files = [&] {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path() / "cache")) {
      if (entry.is_regular_file() && entry.file_size() > 300'000) ++count;
    }
    return count;
  };
  for (const std::int64_t model : {0, 1, 2, 3})
    registry_.publish(std::to_string(model), 1, with_weights(folder_, 100'000 + model), rows_of(2), true);
  start([](Server::Options& options) {
    options.store.limits.max_bytes = 900'000;
    options.store.cache_bytes = 900'000;
  });
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  for (int round = 0; round < 2; ++round) {
    for (const std::string name : {"0", "1", "2", "3"})
      EXPECT_EQ(values(gateway_.infer(name, 1, {1, 2})), (std::vector<float>{2, 4}));
  }
  EXPECT_LE(files(), 3U);  // two are loaded, one was while the last came
  EXPECT_GE(files(), 2U);
}

TEST_F(ServerTest, AModelThatKeepsTooMuchIsLoadedAfresh) {
  const std::string hoard = read_file(
      save_module(folder_, "hoard.pt",
                  "def forward(self, x):\n  self.items.append(x.repeat([1, 500]))\n  return x * 0 + len(self.items)\n",
                  [](torch::jit::Module& module) {
                    module.register_attribute("items", c10::ListType::ofTensors(), c10::List<at::Tensor>());
                  }));
  registry_.publish("m", 1, hoard, rows_of(2), true);
  start([](Server::Options& options) {
    options.store.max_batch_rows = 1;
    options.store.model_limits.run_bytes = 100'000;
  });
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  bool refused = false;
  for (int i = 0; i < 30 && !refused; ++i) {
    const Message answer = gateway_.infer("m", 1, {1, 2});
    const auto* error = std::get_if<msg::Error>(&answer.envelope.body);
    refused = error != nullptr && from_message(*error).code == Code::kTooLarge;
  }
  EXPECT_TRUE(refused);
  // Meanwhile it may be refused; in the end it has begun anew.
  while (true) {
    const Message answer = gateway_.infer("m", 1, {1, 2});
    if (std::holds_alternative<msg::Error>(answer.envelope.body)) continue;
    EXPECT_LT(values(answer)[0], 10);
    break;
  }
}

TEST_F(ServerTest, AStuckUploadIsQuarantinedAndNotRunAgain) {
  registry_.publish("m", 1, slow(), rows_of(2), true);
  std::promise<void> stuck;
  start([&](Server::Options& options) {
    options.store.max_batch_rows = 1;
    options.engine.stuck_after = 0ms;
    options.end_process = [&stuck] { stuck.set_value(); };
  });
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  auto told = stuck.get_future();
  while (told.wait_for(0s) != std::future_status::ready) gateway_.infer("m", 1, {1, 2}, 50);
  server_->stop();
  server_.reset();
  gateway_.forget();

  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  const Message refused = gateway_.infer("m", 1, {1, 2});
  EXPECT_EQ(code(refused), Code::kInvalidArgument);
  EXPECT_TRUE(std::get<msg::Error>(refused.envelope.body).message.contains("quarantined"));
}

TEST_F(ServerTest, AQuarantinedVersionGoesAtOnceAndComesBackWhenItIsLifted) {
  const std::string file = doubler();
  registry_.publish("m", 1, file, rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  registry_.quarantine(file, "it crashed elsewhere");
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.loaded.empty(); }));
  const Message refused = gateway_.infer("m", 1, {1, 2});
  EXPECT_EQ(code(refused), Code::kInvalidArgument);
  EXPECT_TRUE(std::get<msg::Error>(refused.envelope.body).message.contains("it crashed elsewhere"));
  registry_.quarantine(file, "");
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  EXPECT_EQ(values(gateway_.infer("m", 1, {1, 2})), (std::vector<float>{2, 4}));
}

TEST_F(ServerTest, AQuarantinedFileIsNeitherLoadedNorInspected) {
  const std::string file = doubler();
  registry_.quarantine(file, "it crashed elsewhere");
  registry_.publish("m", 1, file, rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kInvalidArgument);
  EXPECT_EQ(code(gateway_.receive(gateway_.send(msg::Inspect{.file = registry_.store(file), .signature = rows_of(2)}))),
            Code::kInvalidArgument);
}

// What a crashed process left behind is told by the next one, and forgotten once the registry knows.
TEST_F(ServerTest, AMarkOfACrashIsReportedAtTheNextStart) {
  const std::string file = doubler();
  const auto folder = folder_.path() / "cache";
  std::filesystem::create_directories(folder);
  const auto mark = folder / (to_hex(sha256(file)) + ".crashed");
  std::ofstream(mark) << "m\n1\nthe process that ran it crashed (signal 8)\n";
  registry_.publish("m", 1, file, rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kInvalidArgument);
  const auto known = registry_.quarantined(file);
  ASSERT_TRUE(known);
  EXPECT_EQ(known->version, 1U);
  EXPECT_TRUE(known->reason.contains("signal 8"));
  EXPECT_FALSE(std::filesystem::exists(mark));
}

// Of a process that dies meanwhile, whatever the way, the next one knows by this mark what it was at.
TEST_F(ServerTest, AnUploadedFileIsMarkedWhileItIsLoadedAndWarmsUp) {
  const auto marked = [&] {
    return std::ranges::any_of(std::filesystem::directory_iterator(folder_.path() / "cache"),
                               [](const auto& entry) { return entry.path().extension() == ".trying"; });
  };
  registry_.publish("m", 1, slow(), rows_of(2), true);
  start([](Server::Options& options) { options.store.max_batch_rows = 1; });
  const auto seen_until_ready = [&](std::uint64_t version) {
    auto ready = std::async(std::launch::async, [&] { return gateway_.ready({"m", version}); });
    int seen = 0;
    while (ready.wait_for(1ms) != std::future_status::ready) seen += marked() ? 1 : 0;
    EXPECT_TRUE(ready.get());
    return seen;
  };
  EXPECT_GT(seen_until_ready(1), 20) << "loading takes a moment, warming up about a second";
  EXPECT_FALSE(marked());
  registry_.publish("m", 2, doubler(), rows_of(2), false);
  EXPECT_EQ(seen_until_ready(2), 0) << "made here";
}

TEST_F(ServerTest, AMarkThatTheRegistryDoesNotTakeKeepsNothingElseFromLoading) {
  const auto folder = folder_.path() / "cache";
  std::filesystem::create_directories(folder);
  const auto mark_of = [&](const std::string& file) { return folder / (to_hex(sha256(file)) + ".crashed"); };
  const std::string waits = "later", named_alone = "alone", invalid = "never";
  for (const std::string& file : {waits, named_alone, invalid}) std::ofstream(mark_of(file)) << "m\n1\nit crashed\n";
  registry_.refuse_quarantines([&](const Quarantine& quarantine) -> std::optional<Code> {
    if (quarantine.digest == sha256(waits)) return Code::kInternal;
    if (quarantine.digest == sha256(invalid) || !quarantine.model.empty()) return Code::kInvalidArgument;
    return std::nullopt;
  });
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  registry_.publish("bad", 1, waits, rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  EXPECT_EQ(values(gateway_.infer("m", 1, {1, 2})), (std::vector<float>{2, 4}));
  const Message refused = gateway_.infer("bad", 1, {1, 2});
  EXPECT_TRUE(std::get<msg::Error>(refused.envelope.body).message.contains("quarantined"));
  EXPECT_TRUE(registry_.quarantined(named_alone));
  EXPECT_FALSE(std::filesystem::exists(mark_of(named_alone)));
  EXPECT_FALSE(std::filesystem::exists(mark_of(invalid)));
  EXPECT_TRUE(std::filesystem::exists(mark_of(waits)));

  registry_.refuse_quarantines({});
  registry_.quarantine("another", "so that the list is read");
  while (std::filesystem::exists(mark_of(waits))) std::this_thread::yield();
  EXPECT_TRUE(registry_.quarantined(waits));
}

// The version said so itself, and the list, which is read later, does not.
TEST_F(ServerTest, AVersionThatRunsAgainIsNotLoadedTwice) {
  const std::string file = doubler();
  const auto loads = [] { return metrics().loads.Add({{"result", "ok"}}).Value(); };
  const double before = loads();
  registry_.publish("m", 1, file, rows_of(2), true);
  registry_.set_quarantined("m", 1, "once");
  start();
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kInvalidArgument);
  registry_.set_quarantined("m", 1, "");
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  registry_.quarantine("another", "so that the list is read");
  registry_.publish("n", 1, file, rows_of(2), true);  // loaded after that
  ASSERT_TRUE(gateway_.ready({"n", 1}));
  while (loads() < before + 2) std::this_thread::yield();  // it is ready before it is counted
  EXPECT_EQ(loads(), before + 2);
  EXPECT_TRUE(gateway_.ready({"m", 1}));
}

TEST_F(ServerTest, ACrashIsAnsweredReportedAndEndsTheProcess) {
  if (!CrashGuard::kCatches) GTEST_SKIP() << "a sanitizer has these signals";
  const std::string file = doubler();
  registry_.publish("m", 1, file, rows_of(2), true);
  std::promise<void> ended;
  start([&](Server::Options& options) {
    options.crash_wait = std::chrono::hours(1);  // the thread stays in the handler until the tests end
    options.end_process = [&ended] { ended.set_value(); };
  });
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  const msg::VersionKey key{"m", 1};
  const Digest digest = sha256(file);
  std::thread([&] {
    const CrashGuard::Scope scope(key, digest, true);
    raise(SIGFPE);
  }).detach();
  ASSERT_EQ(ended.get_future().wait_for(10s), std::future_status::ready);
  EXPECT_TRUE(registry_.quarantined(file));
  EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.credits == 0 && !beat.draining; }));
  EXPECT_EQ(code(gateway_.infer("m", 1, {1, 2})), Code::kUnavailable);
}

// Two that take long must not keep the third waiting for all of their time.
TEST_F(ServerTest, SlowInspectionsMakeRoomForOthers) {
  start([](Server::Options& options) { options.inspect.time = std::chrono::seconds(25); });
  ASSERT_TRUE(gateway_.heard([](const msg::Heartbeat&) { return true; }));
  const Signature given{.inputs = {f32("x", {-1, 2})}, .outputs = {}, .classes = {}};
  for (int i = 0; i < 2; ++i) {
    const auto slow =
        read_file(save_module(folder_, "slow.pt",
                              std::format("def forward(self, x):\n  for i in range(400000000{}):\n    x = x + 1\n"
                                          "  return x\n",
                                          i)));
    gateway_.send(msg::Inspect{.file = registry_.store(slow), .signature = given});
  }
  const auto begun = std::chrono::steady_clock::now();
  const auto good =
      gateway_.receive(gateway_.send(msg::Inspect{.file = registry_.store(doubler()), .signature = given}));
  EXPECT_TRUE(std::holds_alternative<msg::Inspected>(good.envelope.body));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 24s);
  server_->stop();
}

TEST_F(ServerTest, StoppingDoesNotWaitForTheRegistry) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  registry_.deafen();
  start();
  registry_.wait_for_chunk();
  const auto begun = std::chrono::steady_clock::now();
  server_->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 20s);  // a chunk's deadline is 60 s
}

TEST_F(ServerTest, DrainingReturnsTheCredits) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  server_->drain(5s);
  EXPECT_TRUE(gateway_.heard([](const msg::Heartbeat& beat) { return beat.draining && beat.credits == 0; }));
  EXPECT_EQ(server_->not_ready(), "draining");
  server_->stop();
}

// A gateway that is slow to hear of it goes on sending meanwhile: here for far longer than the inferencer is idle.
TEST_F(ServerTest, DrainingAnswersWhatGatewaysSentBeforeTheyKnew) {
  registry_.publish("m", 1, doubler(), rows_of(2), true);
  start();
  ASSERT_TRUE(gateway_.ready({"m", 1}));
  std::atomic<std::uint64_t> asked = 0;
  gateway_.before_letting_go([&] {
    std::this_thread::sleep_for(500ms);  // the gateway's own slowness
    asked = gateway_.send_locked(msg::Infer{.model = "m", .version = 1, .inputs = {f32("x", {1, 2})}},
                                 {Frame::of(std::vector<float>{1, 2})});
  });
  server_->drain(20s);
  server_->stop();
  EXPECT_EQ(values(gateway_.receive(asked)), (std::vector<float>{2, 4}));
}

}  // namespace
}  // namespace slipway::inferencer

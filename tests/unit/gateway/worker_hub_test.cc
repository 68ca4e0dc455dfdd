#include "services/gateway/worker_hub.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <optional>

#include "schema/limits.h"
#include "services/gateway/metrics.h"
#include "tests/support/message_forms.h"

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

// A worker as the gateway's port sees one, over a real connection.
class FakeWorker {
 public:
  FakeWorker(Bus& bus, int port) : bus_(bus) {
    socket_ = *bus.connect_dealer(std::format("127.0.0.1:{}", port), [inbox = inbox_](Incoming incoming) {
      const std::lock_guard lock(inbox->mutex);
      inbox->heard.push_back(std::move(incoming.message));
      inbox->came.notify_all();
    });
  }
  void say(msg::Body body, std::uint64_t correlation = 0, std::vector<Frame> payload = {}, std::string secret = {}) {
    msg::Envelope envelope;
    envelope.correlation = correlation;
    envelope.secret = std::move(secret);
    envelope.body = std::move(body);
    ASSERT_TRUE(bus_.send(socket_, {.envelope = std::move(envelope), .payload = std::move(payload)}));
  }
  // The next message, waited for.
  std::optional<Message> next() {
    std::unique_lock lock(inbox_->mutex);
    if (!inbox_->came.wait_for(lock, 30s, [this] { return !inbox_->heard.empty(); })) return std::nullopt;
    Message message = std::move(inbox_->heard.front());
    inbox_->heard.pop_front();
    return message;
  }
  // The next one of that kind; others are passed over.
  template <class Kind>
  Message hear() {
    while (auto message = next()) {
      if (std::holds_alternative<Kind>(message->envelope.body)) return std::move(*message);
    }
    ADD_FAILURE() << "no such message came";
    return {};
  }
  void join(msg::Role role = msg::Role::kInferencer, std::string secret = {}) {
    say(msg::Hello{.release = "r", .role = role, .worker_id = WorkerId("w"), .host = "h"}, 0, {}, std::move(secret));
    hear<msg::Welcome>();
    say(msg::Heartbeat{.credits = 4, .loaded = {}, .draining = false});
    hear<msg::Ok>();
  }
  void leave() { bus_.close(socket_); }
  ~FakeWorker() { leave(); }
  FakeWorker(const FakeWorker&) = delete;
  FakeWorker& operator=(const FakeWorker&) = delete;

 private:
  struct Inbox {  // outlives the worker: the bus closes its socket later
    std::mutex mutex;
    std::condition_variable came;
    std::deque<Message> heard;
  };
  Bus& bus_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  SocketId socket_{};
};

struct WorkerHubTest : testing::Test {
  Settings settings;
  Bus bus;
  Bus workers_bus;
  Caller caller{bus, "127.0.0.1:1"};
  RegistryClient client{caller, 1s};
  RegistryCache cache{client};
  EventHub events;
  std::unique_ptr<WorkerHub> hub;

  void start(std::string secret = {}) {
    hub = std::make_unique<WorkerHub>(bus, caller, cache, events, settings, "r", std::move(secret));
    ASSERT_TRUE(hub->start("127.0.0.1:0"));
  }
  ~WorkerHubTest() override {
    caller.close();
    hub->close();
    workers_bus.stop();
    bus.stop();
  }
  std::future<Result<Message>> ask(bool uploaded = false, std::uint64_t version = 1) {
    return ask(msg::Infer{.model = "m", .version = version, .inputs = {}},
               msg::VersionKey{.model = "m", .version = version}, uploaded);
  }
  std::future<Result<Message>> ask(msg::Body body, std::optional<msg::VersionKey> loaded, bool uploaded) {
    auto answer = std::make_shared<std::promise<Result<Message>>>();
    hub->ask({.body = std::move(body),
              .payload = {},
              .loaded = std::move(loaded),
              .uploaded = uploaded,
              .rows = 1,
              .deadline = std::chrono::steady_clock::now() + 20s,
              .request_id = "q"},
             [answer](Result<Message> message) { answer->set_value(std::move(message)); });
    return answer->get_future();
  }
};

TEST_F(WorkerHubTest, HoldsAgainstEveryKindOfMessageFromAnybody) {
  start();
  const double before = metrics().handler_failures.Value();
  FakeWorker worker(workers_bus, hub->port());
  auto forms = every_form();
  forms.emplace_back(msg::Error{.code = 250, .message = "?", .path = {}});
  forms.emplace_back(
      msg::Hello{.release = "r", .role = static_cast<msg::Role>(9), .worker_id = WorkerId("x"), .host = {}});
  forms.emplace_back(msg::Heartbeat{.credits = UINT32_MAX, .loaded = {{}, {}}, .draining = false});
  forms.emplace_back(
      msg::Inferred{.outputs = {{.name = "", .dtype = static_cast<DType>(99), .shape = {-1, 1L << 62}}}});
  const auto say_all = [&] {
    for (const std::uint64_t correlation : {0UL, 1UL << 40, UINT64_MAX}) {
      for (const auto& form : forms) worker.say(form, correlation, {Frame(), Frame::copy(std::string_view("x"))});
      // All was read once this is refused, so that never too much waits to be sent.
      worker.say(msg::Hello{.release = "other", .role = {}, .worker_id = WorkerId("x"), .host = {}}, 4711);
      while (worker.hear<msg::Error>().envelope.correlation != 4711 && !HasFailure()) {
      }
    }
  };
  say_all();  // as a stranger
  worker.join();
  say_all();  // as a worker, and with nothing asked
  worker.join();
  auto answer = ask();
  for (const auto& form : forms) worker.say(form, UINT64_MAX, {});
  const Message question = worker.hear<msg::Infer>();
  worker.say(msg::Inferred{}, question.envelope.correlation);
  EXPECT_TRUE(answer.get());
  EXPECT_EQ(metrics().handler_failures.Value(), before);
  EXPECT_EQ(bus.thrown_total(), 0U);
}

TEST_F(WorkerHubTest, WhatIsNoAnswerToAPredictionIsToldAsOurFault) {
  start();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  auto answer = ask();
  worker.say(msg::Models{}, worker.hear<msg::Infer>().envelope.correlation);
  const auto heard = answer.get();
  ASSERT_FALSE(heard);
  EXPECT_EQ(heard.error().code, Code::kInternal);
}

TEST_F(WorkerHubTest, AQuestionTooLargeForTheWireIsToldAtOnce) {
  start();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  msg::Inspect large;
  large.signature.classes.resize(kMaxListItems + 1);
  const auto told = ask(std::move(large), std::nullopt, true).get();
  ASSERT_FALSE(told);
  EXPECT_EQ(told.error().code, Code::kTooLarge);
  auto answer = ask();
  const auto heard = worker.next();
  ASSERT_TRUE(heard);
  EXPECT_TRUE(std::holds_alternative<msg::Infer>(heard->envelope.body)) << "nothing before";
  worker.say(msg::Inferred{}, heard->envelope.correlation);
  EXPECT_TRUE(answer.get());
}

TEST_F(WorkerHubTest, WorkersOfTwoReleasesServeBesideEachOther) {
  start();
  Bus::Limits later;
  later.protocols = {.oldest = msg::kProtocols.oldest, .newest = msg::kProtocols.newest + 1};
  Bus later_bus(later);
  FakeWorker present(workers_bus, hub->port());
  present.join();
  FakeWorker young(later_bus, hub->port());
  young.say(msg::Hello{.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("v"), .host = "h"});
  young.hear<msg::Welcome>();
  young.say(msg::Heartbeat{.credits = 4, .loaded = {}, .draining = false});
  young.hear<msg::Ok>();
  auto first = ask();
  auto second = ask();
  present.say(msg::Inferred{}, present.hear<msg::Infer>().envelope.correlation);
  young.say(msg::Inferred{}, young.hear<msg::Infer>().envelope.correlation);
  EXPECT_TRUE(first.get());
  EXPECT_TRUE(second.get());

  later.protocols.oldest = later.protocols.newest;
  Bus foreign_bus(later);
  FakeWorker foreign(foreign_bus, hub->port());
  foreign.say(msg::Hello{.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("f"), .host = "h"});
  const Message refused = foreign.hear<msg::Error>();
  EXPECT_THAT(std::get<msg::Error>(refused.envelope.body).message, HasSubstr("none in common"));
}

TEST_F(WorkerHubTest, AQuestionOfALaterReleaseIsToldThatItIsNotKnown) {
  start();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  worker.say(msg::Nothing{}, 1ULL << 50);  // as an unknown kind is read
  const Message answer = worker.hear<msg::Error>();
  EXPECT_EQ(answer.envelope.correlation, 1ULL << 50);
  EXPECT_EQ(from_message(std::get<msg::Error>(answer.envelope.body)).code, Code::kUnsupported);
}

TEST_F(WorkerHubTest, AsksInferencersToLoadAndTellsWhatEachSays) {
  start();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  auto said = std::make_shared<std::promise<std::vector<LoadRounds::Outcome>>>();
  hub->load({{"m", 1}, {"m", 2}}, std::chrono::steady_clock::now() + 20s, "q",
            [said](std::vector<LoadRounds::Outcome> outcomes) { said->set_value(std::move(outcomes)); });
  for (std::uint64_t version : {1, 2}) {
    const Message question = worker.hear<msg::LoadVersion>();
    EXPECT_EQ(std::get<msg::LoadVersion>(question.envelope.body).version, (msg::VersionKey{"m", version}));
    if (version == 1) {
      worker.say(msg::Ok{}, question.envelope.correlation);
    } else {
      worker.say(to_message({.code = Code::kDataLoss, .message = "damaged", .path = {}}),
                 question.envelope.correlation);
    }
  }
  const auto outcomes = said->get_future().get();
  ASSERT_EQ(outcomes.size(), 2U);
  EXPECT_TRUE(outcomes[0].loaded);
  EXPECT_EQ(outcomes[1].loaded.error().message, "damaged");

  worker.say(msg::Heartbeat{.credits = 4, .loaded = {{"m", 1}}, .draining = false}, 1);
  worker.hear<msg::Ok>();
  auto seen = std::make_shared<std::promise<WorkerHub::Fleet>>();
  hub->look([seen](WorkerHub::Fleet fleet) { seen->set_value(std::move(fleet)); });
  const auto fleet = seen->get_future().get();
  EXPECT_EQ(fleet.inferencers, 1U);
  EXPECT_EQ(fleet.loaded, (std::map<msg::VersionKey, std::size_t>{{{"m", 1}, 1}}));
}

TEST_F(WorkerHubTest, WhoWaitsForALoadIsAnsweredWhenTheGatewayStops) {
  start();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  auto said = std::make_shared<std::promise<std::vector<LoadRounds::Outcome>>>();
  hub->load({{"m", 1}}, std::chrono::steady_clock::now() + 600s, "q",
            [said](std::vector<LoadRounds::Outcome> outcomes) { said->set_value(std::move(outcomes)); });
  worker.hear<msg::LoadVersion>();
  hub->close();
  EXPECT_EQ(said->get_future().get().at(0).loaded.error().code, Code::kUnavailable);
}

TEST_F(WorkerHubTest, WorkersMustShowTheClusterSecret) {
  start("right");
  for (const char* wrong : {"", "wrong", "righ", "rightright"}) {
    FakeWorker stranger(workers_bus, hub->port());
    stranger.say(msg::Hello{.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("s"), .host = "h"}, 0,
                 {}, wrong);
    const Message refused = stranger.hear<msg::Error>();
    EXPECT_THAT(std::get<msg::Error>(refused.envelope.body).message, HasSubstr("secret")) << wrong;
    stranger.say(msg::Heartbeat{.credits = 4, .loaded = {}, .draining = false});
    stranger.hear<msg::Rehello>();
  }
  EXPECT_EQ(hub->inferencers(), 0);
  FakeWorker worker(workers_bus, hub->port());
  worker.join(msg::Role::kInferencer, "right");
  auto answer = ask();
  worker.say(msg::Inferred{}, worker.hear<msg::Infer>().envelope.correlation);
  EXPECT_TRUE(answer.get());
}

TEST_F(WorkerHubTest, RequestsWaitForTheFirstInferencerAfterTheStart) {
  start();
  auto answer = ask();
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  worker.say(msg::Inferred{}, worker.hear<msg::Infer>().envelope.correlation);
  EXPECT_TRUE(answer.get());
}

TEST_F(WorkerHubTest, ALostInferencersRequestGoesToAnotherUnlessTheModelIsLikelyTheCause) {
  start();
  FakeWorker first(workers_bus, hub->port());
  first.join();
  auto proof = ask(true, 2);
  first.say(msg::Inferred{}, first.hear<msg::Infer>().envelope.correlation);
  EXPECT_TRUE(proof.get());
  auto made_here = ask(false);
  auto uploaded = ask(true);
  auto proven = ask(true, 2);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(std::get<msg::Infer>(first.hear<msg::Infer>().envelope.body).alone);
  FakeWorker second(workers_bus, hub->port());
  second.say(msg::Hello{.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("v"), .host = "h"});
  second.hear<msg::Welcome>();
  second.say(msg::Heartbeat{.credits = 4, .loaded = {}, .draining = false});
  second.hear<msg::Ok>();
  first.leave();
  for (const std::uint64_t version : {1U, 2U}) {
    const Message again = second.hear<msg::Infer>();
    const auto& infer = std::get<msg::Infer>(again.envelope.body);
    EXPECT_EQ(infer.version, version);
    EXPECT_EQ(infer.alone, version == 2) << "what was uploaded may be the cause";
    second.say(msg::Inferred{}, again.envelope.correlation);
  }
  EXPECT_TRUE(made_here.get());
  EXPECT_TRUE(proven.get());
  const auto failed = uploaded.get();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kUnavailable);
}

TEST_F(WorkerHubTest, OneThatDrainedAndOwesNothingIsNotCountedAsLost) {
  start();
  const auto lost_by_a_restart = [&](bool drains) {
    const double before = metrics().workers_lost.Value();
    FakeWorker earlier(workers_bus, hub->port());
    earlier.join();
    earlier.say(msg::Heartbeat{.credits = 0, .loaded = {}, .draining = drains});
    earlier.hear<msg::Ok>();
    FakeWorker later(workers_bus, hub->port());
    later.join();  // in its place
    later.say(msg::Heartbeat{.credits = 0, .loaded = {}, .draining = true});
    later.hear<msg::Ok>();
    return metrics().workers_lost.Value() - before;
  };
  EXPECT_EQ(lost_by_a_restart(true), 0);
  EXPECT_EQ(lost_by_a_restart(false), 1);
}

TEST_F(WorkerHubTest, WhatAnInferencerSaysLastIsHeardBeforeItIsGivenUp) {
  start();
  for (int round = 0; round < 5; ++round) {
    Bus own;
    FakeWorker worker(own, hub->port());
    worker.join();
    auto answer = ask();
    worker.say(msg::Error{.code = static_cast<std::uint8_t>(Code::kInternal), .message = "crashed", .path = {}},
               worker.hear<msg::Infer>().envelope.correlation);
    own.stop(10s);  // what was said goes out, then the connection is gone
    const auto heard = answer.get();
    ASSERT_FALSE(heard);
    EXPECT_EQ(heard.error().code, Code::kInternal);
  }
}

TEST_F(WorkerHubTest, ServesWithCreditAndNotWhileDraining) {
  start();
  EXPECT_EQ(hub->inferencers(), 0);
  FakeWorker worker(workers_bus, hub->port());
  worker.join();
  const auto until = [&](int wanted) {
    const auto deadline = std::chrono::steady_clock::now() + 30s;
    while (hub->inferencers() != wanted && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(hub->inferencers(), wanted);
  };
  until(1);
  worker.say(msg::Heartbeat{.credits = 4, .loaded = {}, .draining = true}, 9);
  EXPECT_EQ(worker.hear<msg::Ok>().envelope.correlation, 9U) << "it may leave";
  until(0);
  worker.say(msg::Heartbeat{.credits = 0, .loaded = {}, .draining = false});
  worker.say(msg::Heartbeat{.credits = 1, .loaded = {}, .draining = false});
  until(1);
  worker.say(msg::Heartbeat{.credits = 0, .loaded = {}, .draining = false});
  until(0);
}

}  // namespace
}  // namespace slipway::gateway

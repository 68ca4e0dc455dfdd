#include "services/gateway/registry_cache.h"

#include <gmock/gmock.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <condition_variable>
#include <deque>
#include <future>
#include <stdexcept>
#include <thread>

#include "lib/base/sha256.h"
#include "schema/limits.h"
#include "services/gateway/cache_warmer.h"
#include "tests/support/watched_log.h"

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;

// A registry that answers when the test says so.
class HeldRegistry {
 public:
  explicit HeldRegistry(Bus& bus) : bus_(bus) {
    socket_ = *bus.bind_router("127.0.0.1:0", [this](Incoming incoming) {
      const std::lock_guard lock(mutex_);
      asked_.push_back(std::move(incoming));
      came_.notify_all();
    });
  }
  [[nodiscard]] std::string address() const { return std::format("127.0.0.1:{}", bus_.port(socket_)); }
  // The next question, waited for.
  Incoming next() {
    std::unique_lock lock(mutex_);
    if (!came_.wait_for(lock, 30s, [this] { return !asked_.empty(); })) {
      ADD_FAILURE() << "no question came";
      return {};
    }
    Incoming incoming = std::move(asked_.front());
    asked_.pop_front();
    return incoming;
  }
  std::size_t waiting() {
    const std::lock_guard lock(mutex_);
    return asked_.size();
  }
  void answer(const Incoming& question, msg::Body body) {
    bus_.send(socket_, question.peer,
              {.envelope = {.correlation = question.message.envelope.correlation,
                            .deadline_ms = 0,
                            .request_id = {},
                            .body = std::move(body)},
               .payload = {}});
  }

 private:
  Bus& bus_;
  SocketId socket_{};
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Incoming> asked_;
};

msg::Models one(std::uint64_t latest) {
  Model model;
  model.name = "m";
  model.latest = latest;
  return {.items = {model}};
}

msg::Versions version(std::uint64_t number, Digest digest = {}) {
  Version made;
  made.model = "m";
  made.number = number;
  made.files = {{.name = "model.pt", .size_bytes = 1, .digest = digest, .chunks = {}}};
  return {.items = {made}};
}

struct RegistryCacheTest : testing::Test {
  Bus bus;
  HeldRegistry registry{bus};
  std::unique_ptr<Caller> caller = std::make_unique<Caller>(bus, registry.address());
  RegistryClient client{*caller, 1h};
  RegistryCache cache{client, 0ms};  // every head is old at once
  asio::io_context context{1};
  asio::executor_work_guard<Executor> work{context.get_executor()};
  std::thread thread{[this] { context.run(); }};

  ~RegistryCacheTest() override {
    work.reset();
    caller->close();
    thread.join();
    bus.stop();
  }
  std::future<Result<VersionRef>> ask_version(std::uint64_t number) {
    return asio::co_spawn(context, cache.version("m", number, "r"), asio::use_future);
  }
  std::future<Result<VersionRef>> ask_latest(std::string model = "m") {
    return asio::co_spawn(context, cache.resolve(std::move(model), Latest{}, "r"), asio::use_future);
  }
  // The next question, which must be of that kind.
  template <class Question>
  Incoming next() {
    Incoming question = registry.next();
    EXPECT_TRUE(std::holds_alternative<Question>(question.message.envelope.body));
    return question;
  }
  static std::uint64_t number(std::future<Result<VersionRef>> asked) {
    if (asked.wait_for(30s) != std::future_status::ready) {
      ADD_FAILURE() << "the version was waited for";
      std::abort();
    }
    const auto version = asked.get();
    EXPECT_TRUE(version) << version.error().message;
    return version ? (*version)->number : 0;
  }
  // Latest version 1 of "m" has been served.
  void serve_one() {
    auto asked = ask_latest();
    registry.answer(next<msg::GetModel>(), one(1));
    registry.answer(next<msg::GetVersion>(), version(1));
    EXPECT_EQ(number(std::move(asked)), 1U);
  }
  std::future<Result<ModelRef>> ask() { return asio::co_spawn(context, cache.model("m", "r"), asio::use_future); }
  std::uint64_t latest(std::future<Result<ModelRef>> asked) {
    if (asked.wait_for(30s) != std::future_status::ready) {
      ADD_FAILURE() << "the head was waited for";
      std::abort();
    }
    const auto model = asked.get();
    EXPECT_TRUE(model) << model.error().message;
    return model ? (*model)->latest : 0;
  }
  void know(std::uint64_t number) {
    auto asked = ask();
    registry.answer(registry.next(), one(number));
    EXPECT_EQ(latest(std::move(asked)), number);
  }
};

TEST_F(RegistryCacheTest, ServesAnOldHeadWhileTheRegistryIsSilent) {
  know(1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(latest(ask()), 1U);
  registry.next();
  EXPECT_EQ(registry.waiting(), 0U);  // all three share one question
}

TEST_F(RegistryCacheTest, ThoseWhoKnowNoHeadShareOneQuestion) {
  auto first = ask();
  auto second = ask();
  registry.answer(registry.next(), one(4));
  EXPECT_EQ(latest(std::move(first)), 4U);
  EXPECT_EQ(latest(std::move(second)), 4U);
}

TEST_F(RegistryCacheTest, WaitsForANewerHeadAfterAChangeButNotForASilentRegistry) {
  know(1);
  cache.forget("m");
  auto asked = ask();
  registry.answer(registry.next(), one(2));
  EXPECT_EQ(latest(std::move(asked)), 2U);
  cache.forget("m");
  EXPECT_EQ(latest(ask()), 2U);  // nobody answers this one
}

TEST_F(RegistryCacheTest, AnAnswerAskedForBeforeAChangeIsNotTakenAfterIt) {
  know(1);
  EXPECT_EQ(latest(ask()), 1U);
  const Incoming before = registry.next();
  cache.forget("m");
  auto asked = ask();
  const Incoming after = registry.next();
  registry.answer(before, one(1));
  registry.answer(after, one(2));
  EXPECT_EQ(latest(std::move(asked)), 2U);
}

TEST_F(RegistryCacheTest, EqualQuestionsForAVersionAreOne) {
  auto first = ask_version(3);
  auto second = ask_version(3);
  registry.answer(next<msg::GetVersion>(), version(3));
  EXPECT_EQ(number(std::move(first)), 3U);
  EXPECT_EQ(number(std::move(second)), 3U);
  EXPECT_EQ(number(ask_version(3)), 3U);
  EXPECT_EQ(registry.waiting(), 0U);
}

TEST_F(RegistryCacheTest, WhatThereIsNotIsAskedForOnceUntilItChanges) {
  auto asked = ask();
  registry.answer(registry.next(), to_message(Error{.code = Code::kNotFound, .message = "no such model", .path = {}}));
  EXPECT_EQ(asked.get().error().code, Code::kNotFound);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ask().get().error().code, Code::kNotFound);
  EXPECT_EQ(registry.waiting(), 0U);
  cache.on_changed({.revision = 1, .subject = msg::Subject::kModel, .key = "m"});
  know(1);
}

TEST_F(RegistryCacheTest, AModelThatIsUnloadedIsRefusedByAnyNameButItsVersionsAreFound) {
  msg::Models unloaded = one(3);
  unloaded.items[0].unloaded = true;
  unloaded.items[0].aliases = {{"prod", 2}};
  const auto refusal = [&](VersionChoice choice) {
    auto asked = asio::co_spawn(context, cache.resolve("m", std::move(choice), "r"), asio::use_future);
    registry.answer(next<msg::GetModel>(), unloaded);
    const auto version = asked.get();
    EXPECT_FALSE(version);
    return version ? Error{} : version.error();
  };
  const Error latest = refusal(Latest{});
  EXPECT_EQ(latest.code, Code::kNotFound);
  EXPECT_EQ(latest.message, "Request for unknown model: 'm' has no available versions; it was unloaded");
  cache.forget("m");
  EXPECT_EQ(refusal(AliasName{"prod"}).code, Code::kNotFound);
  cache.forget("m");
  const Error third = refusal(std::uint64_t{3});
  EXPECT_EQ(third.code, Code::kUnavailable);
  EXPECT_EQ(third.message, "Request for unknown model: 'm' version 3 is not at ready state; the model was unloaded");
  auto found = asio::co_spawn(context, cache.find("m", std::uint64_t{3}, "r"), asio::use_future);
  registry.answer(next<msg::GetVersion>(), version(3));
  EXPECT_EQ(number(std::move(found)), 3U);
}

TEST_F(RegistryCacheTest, AJobThatHasAVersionEndsTheMemoryOfNoSuchModel) {
  auto asked = ask();
  registry.answer(registry.next(), to_message(Error{.code = Code::kNotFound, .message = "no such model", .path = {}}));
  EXPECT_FALSE(asked.get());
  cache.note_version("m", 1);
  know(1);
}

TEST_F(RegistryCacheTest, ThoseUsedLeastRecentlyGoAtTheLimitNotAll) {
  RegistryCache small(client, 1h, 2);
  const auto use = [&](std::uint64_t wanted, bool known) {
    auto asked = asio::co_spawn(context, small.version("m", wanted, "r"), asio::use_future);
    if (!known) registry.answer(next<msg::GetVersion>(), version(wanted));
    EXPECT_EQ(number(std::move(asked)), wanted);
  };
  use(1, false);
  use(2, false);
  use(1, true);
  use(3, false);  // takes 2's place
  use(1, true);
  use(3, true);
  use(2, false);
  EXPECT_EQ(registry.waiting(), 0U);
}

TEST_F(RegistryCacheTest, ServesTheVersionBeforeWhenTheRegistryGoesAwayBehindANewHead) {
  serve_one();
  EXPECT_EQ(number(ask_latest()), 1U);  // an old head: a newer one is asked for meanwhile
  registry.answer(next<msg::GetModel>(), one(2));
  // The answer is there once it is served; each question may have started another.
  while (latest(ask()) != 2) {
  }
  EXPECT_EQ(number(ask_latest()), 1U);  // nobody answers what version 2 is
  EXPECT_EQ(number(ask_latest()), 1U);
}

TEST_F(RegistryCacheTest, AQuarantineDropsTheVersionsWithThatFile) {
  Digest bad;
  bad.bytes[0] = 0xab;
  auto asked = ask_version(1);
  registry.answer(next<msg::GetVersion>(), version(1, bad));
  EXPECT_EQ(number(std::move(asked)), 1U);
  asked = ask_version(2);
  registry.answer(next<msg::GetVersion>(), version(2));
  EXPECT_EQ(number(std::move(asked)), 2U);
  cache.on_changed({.revision = 1, .subject = msg::Subject::kQuarantine, .key = to_hex(bad)});
  EXPECT_EQ(number(ask_version(2)), 2U);
  asked = ask_version(1);
  auto quarantined = version(1, bad);
  quarantined.items[0].quarantined = "it crashed";
  registry.answer(next<msg::GetVersion>(), std::move(quarantined));
  EXPECT_EQ((*asked.get())->quarantined, "it crashed");
}

TEST_F(RegistryCacheTest, MissedEventsDoNotDropVersions) {
  auto asked = ask_version(1);
  registry.answer(next<msg::GetVersion>(), version(1));
  EXPECT_EQ(number(std::move(asked)), 1U);
  cache.on_changed({.revision = 1, .subject = msg::Subject::kJob, .key = "j"});
  cache.on_changed({.revision = 9, .subject = msg::Subject::kJob, .key = "j"});
  EXPECT_EQ(number(ask_version(1)), 1U);  // nobody answers, and nobody waits
  EXPECT_EQ(number(ask_version(1)), 1U);
}

TEST_F(RegistryCacheTest, OfARegistryThatWasRestoredNothingIsBelievedAnyMore) {
  auto asked = ask_version(1);
  registry.answer(next<msg::GetVersion>(), version(1));
  EXPECT_EQ(number(std::move(asked)), 1U);
  cache.on_changed({.revision = 1, .subject = msg::Subject::kNothing, .key = {}});
  cache.on_changed({.revision = 1, .subject = msg::Subject::kNothing, .key = {}});
  EXPECT_EQ(number(ask_version(1)), 1U);
  EXPECT_EQ(registry.waiting(), 0U);
  cache.on_changed({.revision = 1 + kRestoredRevisions, .subject = msg::Subject::kNothing, .key = {}});
  auto again = ask_version(1);
  registry.answer(next<msg::GetVersion>(), to_message(Error{.code = Code::kNotFound, .message = "none", .path = {}}));
  EXPECT_EQ(again.get().error().code, Code::kNotFound);
}

TEST_F(RegistryCacheTest, WhetherThereIsOnlyOneModelIsAskedForTwo) {
  RegistryCache kept(client, 1h);
  const auto names = [&] { return asio::co_spawn(context, kept.first_names("r"), asio::use_future); };
  auto first = names();
  auto second = names();
  const Incoming question = next<msg::ListModels>();
  EXPECT_EQ(std::get<msg::ListModels>(question.message.envelope.body).limit, 2U);
  registry.answer(question, one(1));
  EXPECT_EQ((*first.get())->size(), 1U);
  EXPECT_EQ((*second.get())->size(), 1U);
  EXPECT_EQ((*names().get())->size(), 1U);
  EXPECT_EQ(registry.waiting(), 0U);
}

TEST_F(RegistryCacheTest, ReadsEveryModelSoThatItIsKnownWithoutTheRegistry) {
  auto read = asio::co_spawn(context, cache.read_all("r"), asio::use_future);
  const auto names = registry.next();
  EXPECT_TRUE(std::holds_alternative<msg::ListModels>(names.message.envelope.body));
  msg::Models models = one(2);
  models.items[0].aliases = {{.name = "old", .version = 1}};
  registry.answer(names, models);
  const auto deadline = std::chrono::steady_clock::now() + 30s;
  while (read.wait_for(1ms) != std::future_status::ready && std::chrono::steady_clock::now() < deadline) {
    if (registry.waiting() == 0) continue;
    const auto question = registry.next();
    if (const auto* asked = std::get_if<msg::GetVersion>(&question.message.envelope.body)) {
      registry.answer(question, version(asked->version));
    } else {
      registry.answer(question, models);
    }
  }
  ASSERT_EQ(read.wait_for(0s), std::future_status::ready);
  EXPECT_EQ(read.get().value(), 2U);
  // Silent from now on.
  EXPECT_EQ(ask_latest().get().value()->number, 2U);
  EXPECT_EQ(asio::co_spawn(context, cache.resolve("m", AliasName{"old"}, "r"), asio::use_future).get().value()->number,
            1U);
}

// A gateway whose warmer ended with its first fault would never be ready.
TEST_F(RegistryCacheTest, TheWarmerTriesAgainAfterAFault) {
  std::atomic<int> faults = 0;
  const WatchedLog log(
      [&](const std::string& line) {
        if (line.starts_with("the models cannot be read yet") && ++faults == 1)
          throw std::runtime_error("the log is full");
      },
      spdlog::level::debug);
  CacheWarmer warmer(cache);
  warmer.start();
  registry.answer(next<msg::ListModels>(), to_message({.code = Code::kInternal, .message = "not now", .path = {}}));
  registry.answer(next<msg::ListModels>(), msg::Models{});
  const auto deadline = std::chrono::steady_clock::now() + 30s;
  while (!warmer.done() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(warmer.done());
  EXPECT_EQ(faults, 2) << "the fault itself is said, too";
  caller->close();
}

TEST_F(RegistryCacheTest, AClosedCallerEndsEveryWait) {
  auto asked = ask();
  registry.next();
  caller->close();
  ASSERT_EQ(asked.wait_for(30s), std::future_status::ready);
  const auto model = asked.get();
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, Code::kUnavailable);
}

TEST_F(RegistryCacheTest, ALongQuestionOutlivesTheOrdinaryDeadlineAndIsAskedOnce) {
  RegistryClient hasty(*caller, 1ms);
  auto stored = asio::co_spawn(
      context, hasty.ask_long<msg::DatasetStored>(msg::CommitDataset{.upload = UploadId("u"), .name = "d"}, "r"),
      asio::use_future);
  const Incoming question = registry.next();
  auto given_up = asio::co_spawn(context, hasty.ask<msg::Models>(msg::GetModel{.model = "m"}, "r"), asio::use_future);
  EXPECT_FALSE(given_up.get());
  EXPECT_GT(question.message.envelope.deadline_ms, 500'000U);
  registry.answer(question, msg::DatasetStored{.dataset = {}, .created = true});
  const auto answer = stored.get();
  EXPECT_TRUE(answer) << answer.error().message;
}

}  // namespace
}  // namespace slipway::gateway

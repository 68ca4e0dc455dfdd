#include "services/gateway/registry_cache.h"

#include <gmock/gmock.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <condition_variable>
#include <deque>
#include <future>
#include <thread>

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

#include "lib/wire/caller.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <optional>

namespace slipway {
namespace {

using namespace std::chrono_literals;

// A router with a script: `behave` is given each message and answers through `reply`, or not.
class Server {
 public:
  using Behave = std::function<std::optional<msg::Body>(const Incoming&, int count)>;
  explicit Server(Behave behave, const std::string& address = "127.0.0.1:0") {
    auto bound = bus.bind_router(address, [this, behave = std::move(behave)](Incoming incoming) {
      if (auto body = behave(incoming, ++count)) {
        bus.send(incoming.socket, incoming.peer,
                 {.envelope = {.correlation = incoming.message.envelope.correlation,
                               .deadline_ms = 0,
                               .request_id = {},
                               .body = std::move(*body)},
                  .payload = {}});
      }
    });
    EXPECT_TRUE(bound);
    socket = *bound;
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket)); }

  std::atomic<int> count{0};
  Bus bus;
  SocketId socket{};
};

TEST(Caller, GivesEachQuestionItsOwnAnswer) {
  Server server([](const Incoming& incoming, int) {
    const auto& question = std::get<msg::GetModel>(incoming.message.envelope.body);
    return msg::Models{{{.name = question.model, .latest = 0, .aliases = {}, .created_ms = 0, .updated_ms = 0}}};
  });
  Bus bus;
  Caller caller(bus, server.address());
  for (int i = 0; i < 100; ++i) {
    const auto models = Caller::as<msg::Models>(caller.call_and_wait(msg::GetModel{"m" + std::to_string(i)}, {}, {}));
    ASSERT_TRUE(models) << models.error().message;
    EXPECT_EQ(models->items.at(0).name, "m" + std::to_string(i));
  }
}

TEST(Caller, PassesTheOtherSidesErrorOn) {
  Server server(
      [](const Incoming&, int) { return to_message({.code = Code::kConflict, .message = "moved", .path = {}}); });
  Bus bus;
  Caller caller(bus, server.address());
  const auto answer = caller.call_and_wait(msg::GetModel{"m"}, {}, {});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::kConflict);
  EXPECT_EQ(answer.error().message, "moved");
}

TEST(Caller, FailsAQuestionNobodyAnswersAtItsDeadline) {
  Server server([](const Incoming&, int) { return std::nullopt; });
  Bus bus;
  Caller caller(bus, server.address());
  const auto answer =
      caller.call_and_wait(msg::GetModel{"m"}, {}, {.deadline = 100ms, .repeat_after = {}, .request_id = {}});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::kDeadlineExceeded);
}

TEST(Caller, AsksAgainWhenTheAnswerWasLost) {
  Server server(
      [](const Incoming&, int count) { return count < 3 ? std::nullopt : std::optional<msg::Body>(msg::Ok{}); });
  Bus bus;
  Caller caller(bus, server.address());
  const auto answer =
      caller.call_and_wait(msg::GetModel{"m"}, {}, {.deadline = 30s, .repeat_after = 60ms, .request_id = {}});
  EXPECT_TRUE(answer);
  EXPECT_GE(server.count, 3);
}

TEST(Caller, ReachesAServerThatIsReplacedMeanwhile) {
  std::string address;
  Bus bus;
  std::optional<Caller> caller;
  {
    Server first([](const Incoming&, int) { return msg::Ok{}; });
    address = first.address();
    caller.emplace(bus, address);
    ASSERT_TRUE(caller->call_and_wait(msg::GetModel{"m"}, {}, {}));
  }
  Server second([](const Incoming&, int) { return msg::Ok{}; }, address);
  EXPECT_TRUE(
      caller->call_and_wait(msg::GetModel{"m"}, {}, {.deadline = 30s, .repeat_after = 100ms, .request_id = {}}));
}

TEST(Caller, SaysAtOnceThatAQuestionIsTooLargeOrHasNoRoom) {
  Bus bus({.max_waiting_messages = 3});
  Caller caller(bus, "127.0.0.1:1");  // nobody is there
  const Caller::Options long_wait{.deadline = 600s, .repeat_after = {}, .request_id = {}};
  EXPECT_EQ(caller.call_and_wait(msg::GetModel{std::string(kMaxEnvelopeBytes, 'm')}, {}, long_wait).error().code,
            Code::kTooLarge);
  for (int i = 0; i < 3; ++i) caller.call(msg::GetModel{"m"}, {}, long_wait, [](const Result<Message>&) {});
  EXPECT_EQ(caller.call_and_wait(msg::GetModel{"m"}, {}, long_wait).error().code, Code::kOverloaded);
}

TEST(Caller, ShowsTheClustersSecretWithEveryQuestion) {
  Server server([](const Incoming& incoming, int) {
    return incoming.message.envelope.secret == "s3cret"
               ? msg::Body(msg::Ok{})
               : msg::Body(to_message({.code = Code::kInvalidArgument, .message = "no", .path = {}}));
  });
  Bus bus;
  Caller caller(bus, server.address(), "s3cret");
  EXPECT_TRUE(caller.call_and_wait(msg::GetModel{"m"}, {}, {}));
}

TEST(Caller, FailsOpenAndLaterQuestionsOnceClosed) {
  Server server([](const Incoming&, int) { return std::nullopt; });
  Bus bus;
  Caller caller(bus, server.address());
  std::promise<Result<Message>> open;
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 60s, .repeat_after = {}, .request_id = {}},
              [&](Result<Message> answer) { open.set_value(std::move(answer)); });
  caller.close();
  caller.close();
  EXPECT_EQ(open.get_future().get().error().code, Code::kUnavailable);
  EXPECT_EQ(caller.call_and_wait(msg::GetModel{"m"}, {}, {}).error().code, Code::kUnavailable);
}

TEST(Caller, KeepsNobodyWaitingOnceTheBusHasStopped) {
  Server server([](const Incoming&, int) { return std::nullopt; });
  Bus bus;
  Caller caller(bus, server.address());
  std::promise<Result<Message>> open;
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 600s, .repeat_after = {}, .request_id = {}},
              [&](Result<Message> answer) { open.set_value(std::move(answer)); });
  bus.stop();
  EXPECT_EQ(open.get_future().get().error().code, Code::kUnavailable);
  EXPECT_EQ(caller.call_and_wait(msg::GetModel{"m"}, {}, {}).error().code, Code::kUnavailable);
}

TEST(Caller, FailsOpenQuestionsWhenItGoes) {
  Server server([](const Incoming&, int) { return std::nullopt; });
  Bus bus;
  std::promise<Result<Message>> promise;
  {
    Caller caller(bus, server.address());
    caller.call(msg::GetModel{"m"}, {}, {.deadline = 60s, .repeat_after = {}, .request_id = {}},
                [&](Result<Message> answer) { promise.set_value(std::move(answer)); });
  }
  auto answer = promise.get_future();
  ASSERT_EQ(answer.wait_for(20s), std::future_status::ready);
  EXPECT_EQ(answer.get().error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway

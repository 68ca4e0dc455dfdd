#include "lib/wire/caller.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <format>
#include <future>
#include <memory>
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

TEST(Caller, FailsAtOnceWhatMayNotBeAskedTwiceWhenTheConnectionIsLost) {
  std::promise<void> asked;
  auto server = std::make_unique<Server>([&](const Incoming&, int) {
    asked.set_value();
    return std::nullopt;
  });
  Bus bus;
  Caller caller(bus, server->address());
  std::promise<Result<Message>> answered;
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 600s, .repeat_after = {}, .request_id = {}},
              [&](Result<Message> answer) { answered.set_value(std::move(answer)); });
  asked.get_future().wait();
  server.reset();
  auto answer = answered.get_future();
  ASSERT_EQ(answer.wait_for(60s), std::future_status::ready);
  const auto failed = answer.get();
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kUnavailable);
  EXPECT_GT(failed.error().retry_after, 0ms);
}

TEST(Caller, AsksAgainAsSoonAsThereIsAConnectionAgain) {
  std::promise<void> asked;
  auto first = std::make_unique<Server>([&](const Incoming&, int) {
    asked.set_value();
    return std::nullopt;
  });
  const std::string address = first->address();
  Bus bus;
  Caller caller(bus, address);
  std::promise<Result<Message>> answered;
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 600s, .repeat_after = 600s, .request_id = {}},
              [&](Result<Message> answer) { answered.set_value(std::move(answer)); });
  asked.get_future().wait();
  first.reset();
  Server second([](const Incoming&, int) { return msg::Ok{}; }, address);
  auto answer = answered.get_future();
  ASSERT_EQ(answer.wait_for(60s), std::future_status::ready);
  EXPECT_TRUE(answer.get());
  EXPECT_EQ(second.count, 1);
}

// A connection that ends before it can be used takes nothing with it.
TEST(Caller, SendsWhatWaitedWhileAConnectionWasLost) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;  // the next one takes its port while its connections fade away
  ASSERT_EQ(::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&at), sizeof at), 0);
  ASSERT_EQ(::listen(listener, 8), 0);
  ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size), 0);
  const std::string address = std::format("127.0.0.1:{}", ntohs(at.sin_port));
  Bus bus;
  Caller caller(bus, address);
  std::promise<Result<Message>> answered;
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 600s, .repeat_after = {}, .request_id = {}},
              [&](Result<Message> answer) { answered.set_value(std::move(answer)); });
  for (int i = 0; i < 2; ++i) {
    const int connection = ::accept(listener, nullptr, nullptr);
    ASSERT_GE(connection, 0);
    ::close(connection);
  }
  ::close(listener);
  Server server([](const Incoming&, int) { return msg::Ok{}; }, address);
  auto answer = answered.get_future();
  ASSERT_EQ(answer.wait_for(60s), std::future_status::ready);
  const auto came = answer.get();
  EXPECT_TRUE(came) << came.error().message;
}

TEST(Caller, DoesNotQueueAQuestionAgainThatHasNotBeenSentYet) {
  Bus bus({.max_waiting_messages = 2});
  Caller caller(bus, "127.0.0.1:1");  // nobody is there
  caller.call(msg::GetModel{"m"}, {}, {.deadline = 600s, .repeat_after = 1ms, .request_id = {}},
              [](const Result<Message>&) {});
  std::promise<void> ticked;
  bus.on_tick([&, count = 0](auto) mutable {
    if (++count == 4) ticked.set_value();
  });
  ticked.get_future().wait();
  std::promise<Result<Message>> answered;
  caller.call(msg::GetModel{"n"}, {}, {.deadline = 600s, .repeat_after = {}, .request_id = {}},
              [&](Result<Message> answer) { answered.set_value(std::move(answer)); });
  caller.close();
  EXPECT_EQ(answered.get_future().get().error().code, Code::kUnavailable);  // not kOverloaded: there was room
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

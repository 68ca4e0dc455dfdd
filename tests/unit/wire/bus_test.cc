#include "lib/wire/bus.h"

#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <set>
#include <zmq.hpp>

namespace slipway {
namespace {

using namespace std::chrono_literals;

Message message(msg::Body body, std::uint64_t correlation = 1, std::vector<Frame> payload = {}) {
  return {.envelope = {.correlation = correlation, .deadline_ms = 0, .request_id = {}, .body = std::move(body)},
          .payload = std::move(payload)};
}

// Low enough to be crossed by a test.
constexpr Bus::Limits kTightLimits{.max_queued_messages = 100,
                                   .max_waiting_messages = 100,
                                   .max_waiting_bytes = 1 << 20,
                                   .max_frame_bytes = 65536,
                                   .max_frames = 8};

// A router that answers every message with Ok and the same payload.
class Echo {
 public:
  explicit Echo(const std::string& address = "127.0.0.1:0", Bus::Limits limits = {}) : bus(limits) {
    auto bound = bus.bind_router(address, [this](Incoming incoming) {
      ++received;
      bus.send(incoming.socket, incoming.peer,
               message(msg::Ok{}, incoming.message.envelope.correlation, std::move(incoming.message.payload)));
    });
    EXPECT_TRUE(bound) << bound.error().message;
    socket = *bound;
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket)); }

  Bus bus;
  SocketId socket{};
  std::atomic<int> received{0};
};

TEST(Bus, CarriesPayloadOfEverySizeBothWays) {
  Echo echo;
  Bus bus;
  std::promise<std::vector<std::string>> all;
  std::vector<std::string> came;
  const std::vector<std::size_t> sizes{0, 1, 1024, 1025, 8191, 8192, 1 << 20};
  const auto socket = bus.connect_dealer(echo.address(), [&](Incoming incoming) {
    came.emplace_back(incoming.message.payload.at(0).text());
    if (came.size() == sizes.size()) all.set_value(came);
  });
  ASSERT_TRUE(socket);
  for (const auto size : sizes) {
    ASSERT_TRUE(bus.send(*socket, message(msg::Ok{}, 1, {Frame::of(std::string(size, 'x'))})));
  }
  auto answer = all.get_future();
  ASSERT_EQ(answer.wait_for(20s), std::future_status::ready);
  const auto texts = answer.get();
  for (std::size_t i = 0; i < sizes.size(); ++i) EXPECT_EQ(texts[i], std::string(sizes[i], 'x'));
}

TEST(Bus, ReachesAHostByItsName) {
  Echo echo;
  Bus bus;
  std::promise<void> came;
  const auto socket = bus.connect_dealer("localhost:" + std::to_string(echo.bus.port(echo.socket)),
                                         [&](const Incoming&) { came.set_value(); });
  ASSERT_TRUE(socket);
  ASSERT_TRUE(bus.send(*socket, message(msg::Ok{})));
  EXPECT_EQ(came.get_future().wait_for(20s), std::future_status::ready);
}

// ROUTER drops without a word by default; far more than a high-water mark must come through.
TEST(Bus, LosesNothingFarBeyondTheHighWaterMark) {
  Echo echo;
  Bus bus;
  constexpr int kCount = 20'000;
  std::mutex mutex;
  std::set<std::uint64_t> answered;
  std::promise<void> all;
  const auto socket = bus.connect_dealer(echo.address(), [&](Incoming incoming) {
    const std::lock_guard lock(mutex);
    answered.insert(incoming.message.envelope.correlation);
    if (answered.size() == kCount) all.set_value();
  });
  ASSERT_TRUE(socket);
  for (int sent = 0; sent < kCount; ++sent) {
    // The dealer holds back at most 10,000 that have no room yet; beyond it the sender is told.
    while (sent - static_cast<int>(echo.received) > 5'000) std::this_thread::yield();
    ASSERT_TRUE(bus.send(*socket, message(msg::Ok{}, static_cast<std::uint64_t>(sent) + 1)));
  }
  ASSERT_EQ(all.get_future().wait_for(60s), std::future_status::ready) << answered.size();
  EXPECT_EQ(bus.undelivered_total(), 0U);
  EXPECT_EQ(echo.bus.undelivered_total(), 0U);
}

// With libzmq's own heartbeats a receiver that is busy beside a full queue loses messages or aborts the process.
TEST(Bus, KeepsEverythingForAReceiverThatIsBusyBesideAFullQueue) {
  constexpr int kCount = 8'000;
  Bus receiver;
  std::promise<void> go;
  auto gate = go.get_future().share();
  std::atomic<int> received{0};
  std::promise<void> all;
  const auto bound = receiver.bind_router("127.0.0.1:0", [&](Incoming) {
    gate.wait();
    if (++received == kCount) all.set_value();
  });
  ASSERT_TRUE(bound);
  Bus sender;
  const auto socket = sender.connect_dealer("127.0.0.1:" + std::to_string(receiver.port(*bound)), [](Incoming) {});
  ASSERT_TRUE(socket);
  for (int i = 0; i < kCount; ++i) ASSERT_TRUE(sender.send(*socket, message(msg::Ok{})));
  std::promise<void> turn;
  sender.post([&] { turn.set_value(); });  // by now far more than both high-water marks is on its way
  turn.get_future().wait();
  go.set_value();
  ASSERT_EQ(all.get_future().wait_for(60s), std::future_status::ready) << received;
  EXPECT_EQ(sender.undelivered_total(), 0U);
}

TEST(Bus, AnswersGarbageWithAnErrorAndGoesOn) {
  Echo echo;
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.set(zmq::sockopt::rcvtimeo, 10'000);
  stranger.connect("tcp://" + echo.address());
  for (const std::string& garbage :
       {std::string(), std::string("hello"), std::string(64, static_cast<char>(0xff)), std::string(1000, 0)}) {
    ASSERT_TRUE(stranger.send(zmq::buffer(garbage), zmq::send_flags::none));
    zmq::message_t answer;
    ASSERT_TRUE(stranger.recv(answer)) << "no answer to garbage of " << garbage.size() << " bytes";
    const auto decoded = decode(std::as_bytes(std::span(static_cast<const char*>(answer.data()), answer.size())));
    ASSERT_TRUE(decoded);
    EXPECT_TRUE(std::holds_alternative<msg::Error>(decoded->body));
  }
  EXPECT_EQ(echo.bus.malformed_total(), 4U);
  EXPECT_EQ(echo.received, 0);
}

TEST(Bus, DropsAPeerThatSendsAFrameOverTheLimit) {
  Echo echo("127.0.0.1:0", kTightLimits);
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.set(zmq::sockopt::rcvtimeo, 200);
  stranger.connect("tcp://" + echo.address());
  const Frame good = encode(message(msg::Ok{}).envelope);
  stranger.send(zmq::buffer(std::string(65537, 'x')), zmq::send_flags::none);
  // The connection is dropped, and with it what was on it; on the next one an honest message is answered.
  zmq::message_t answer;
  bool answered = false;
  for (int i = 0; i < 100 && !answered; ++i) {
    stranger.send(zmq::buffer(good.text()), zmq::send_flags::none);
    answered = stranger.recv(answer).has_value();
  }
  EXPECT_TRUE(answered);
  EXPECT_EQ(echo.bus.malformed_total(), 0U) << "the frame over the limit was taken";
}

// A peer that sends and never reads must not hold up the others.
TEST(Bus, ServesItsPeersWhileOneOfThemDoesNotRead) {
  Echo echo;
  zmq::context_t context;
  zmq::socket_t deaf(context, zmq::socket_type::dealer);
  deaf.set(zmq::sockopt::linger, 0);
  deaf.set(zmq::sockopt::rcvhwm, 1);
  deaf.connect("tcp://" + echo.address());
  const Frame question = encode(message(msg::Ok{}).envelope);
  const std::string payload(4096, 'x');
  for (int i = 0; i < 8000; ++i) {
    deaf.send(zmq::buffer(question.text()), zmq::send_flags::sndmore);
    deaf.send(zmq::buffer(payload), zmq::send_flags::none);
  }
  Bus bus;
  constexpr int kCount = 2000;
  std::promise<void> all;
  int answered = 0;
  const auto socket = bus.connect_dealer(echo.address(), [&](Incoming) {
    if (++answered == kCount) all.set_value();
  });
  ASSERT_TRUE(socket);
  for (int i = 0; i < kCount; ++i) ASSERT_TRUE(bus.send(*socket, message(msg::Ok{})));
  EXPECT_EQ(all.get_future().wait_for(20s), std::future_status::ready);
}

// What nobody waits for any more is not done when the other side comes back.
TEST(Bus, DropsAMessageWhoseDeadlinePassedBeforeItCouldBeSent) {
  std::string address;
  {
    Echo gone;
    address = gone.address();
  }
  Bus bus;
  std::promise<std::uint64_t> first;
  std::once_flag once;
  const auto socket = bus.connect_dealer(address, [&](const Incoming& incoming) {
    std::call_once(once, [&] { first.set_value(incoming.message.envelope.correlation); });
  });
  ASSERT_TRUE(socket);
  Message late = message(msg::Ok{}, 1);
  late.envelope.deadline_ms = 1;
  Message kept = message(msg::Ok{}, 2);
  kept.envelope.deadline_ms = 60'000;
  bus.send(*socket, std::move(late));
  bus.send(*socket, std::move(kept));
  std::promise<void> passed;
  bus.on_tick([&, begin = std::chrono::steady_clock::now(), told = false](auto now) mutable {
    if (!told && now - begin > 5ms) {
      told = true;
      passed.set_value();
    }
  });
  passed.get_future().wait();
  Echo back(address);
  auto answer = first.get_future();
  ASSERT_EQ(answer.wait_for(20s), std::future_status::ready);
  EXPECT_EQ(answer.get(), 2U);
  EXPECT_EQ(back.received, 1);
}

TEST(Bus, AnswersAMessageOfTooManyFramesWithAnError) {
  Echo echo("127.0.0.1:0", kTightLimits);
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.set(zmq::sockopt::rcvtimeo, 10'000);
  stranger.connect("tcp://" + echo.address());
  for (int i = 0; i < 5000; ++i) stranger.send(zmq::buffer(std::string("x")), zmq::send_flags::sndmore);
  stranger.send(zmq::buffer(std::string("x")), zmq::send_flags::none);
  zmq::message_t answer;
  ASSERT_TRUE(stranger.recv(answer));
  const auto decoded = decode(std::as_bytes(std::span(static_cast<const char*>(answer.data()), answer.size())));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(std::get<msg::Error>(decoded->body).message, "more than 8 frames");
}

// A worker that comes back under its old routing id would be mute for ever without handover.
TEST(Bus, HearsAPeerThatComesBackUnderTheSameRoutingId) {
  Echo echo;
  zmq::context_t context;
  for (int life = 0; life < 3; ++life) {
    zmq::socket_t worker(context, zmq::socket_type::dealer);
    worker.set(zmq::sockopt::linger, 0);
    worker.set(zmq::sockopt::rcvtimeo, 10'000);
    worker.set(zmq::sockopt::routing_id, "the-same");
    worker.connect("tcp://" + echo.address());
    const Frame hello = encode(message(msg::Ok{}).envelope);
    worker.send(zmq::buffer(hello.text()), zmq::send_flags::none);
    zmq::message_t answer;
    ASSERT_TRUE(worker.recv(answer)) << "life " << life;
    if (life == 1) worker.disconnect("tcp://" + echo.address());
  }
}

TEST(Bus, CountsAMessageToAPeerThatIsGone) {
  Echo echo;
  echo.bus.send(echo.socket, "nobody", message(msg::Ok{}));
  std::promise<void> after;
  echo.bus.post([&] { after.set_value(); });
  after.get_future().wait();
  EXPECT_EQ(echo.bus.undelivered_total(), 1U);
}

// Runs `work` on the bus thread and waits for what it returns.
template <class Work>
auto on_bus(Bus& bus, Work work) {
  std::promise<decltype(work())> done;
  bus.post([&] { done.set_value(work()); });
  return done.get_future().get();
}

TEST(Bus, SaysOnItsThreadThatAPeerHasGoneOrASocketIsClosed) {
  Echo echo;
  const auto gone = on_bus(echo.bus, [&] { return echo.bus.send(echo.socket, "nobody", message(msg::Ok{})); });
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, Code::kUnavailable);
  const auto closed = on_bus(echo.bus, [&] { return echo.bus.send(SocketId{99}, message(msg::Ok{})); });
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().code, Code::kUnavailable);
}

TEST(Bus, SaysOnItsThreadWhenTooMuchWaitsForAPeer) {
  Bus bus(kTightLimits);
  const auto socket = bus.connect_dealer("127.0.0.1:1", [](Incoming) {});  // nobody is there
  ASSERT_TRUE(socket);
  const auto results = on_bus(bus, [&] {
    std::vector<Result<void>> all;
    for (int i = 0; i < 101; ++i) all.push_back(bus.send(*socket, message(msg::Ok{})));
    return all;
  });
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(results[i]) << i;
  ASSERT_FALSE(results[100]);
  EXPECT_EQ(results[100].error().code, Code::kOverloaded);
}

TEST(Bus, RefusesToSendWhatTheOtherSideWouldRefuse) {
  Bus bus(kTightLimits);
  const auto socket = bus.connect_dealer("127.0.0.1:1", [](Incoming) {});
  ASSERT_TRUE(socket);
  const auto code = [&](Message sent) {
    const auto result = bus.send(*socket, std::move(sent));
    return result ? std::optional<Code>() : result.error().code;
  };
  EXPECT_EQ(code(message(msg::GetModel{std::string(kMaxEnvelopeBytes, 'm')})), Code::kTooLarge);
}

TEST(Bus, ReplacesAnAnswerThatIsTooLargeByItsErrorUnderTheSameCorrelation) {
  Bus router(kTightLimits);
  const auto bound = router.bind_router("127.0.0.1:0", [&](const Incoming& incoming) {
    const auto sent = router.answer(
        incoming.socket, incoming.peer,
        message(msg::GetModel{std::string(kMaxEnvelopeBytes, 'm')}, incoming.message.envelope.correlation));
    EXPECT_EQ(sent.error().code, Code::kTooLarge);
  });
  ASSERT_TRUE(bound);
  Bus bus;
  std::promise<Message> answer;
  const auto socket = bus.connect_dealer("127.0.0.1:" + std::to_string(router.port(*bound)),
                                         [&](Incoming incoming) { answer.set_value(std::move(incoming.message)); });
  ASSERT_TRUE(socket);
  ASSERT_TRUE(bus.send(*socket, message(msg::Ok{}, 77)));
  const Message came = answer.get_future().get();
  EXPECT_EQ(came.envelope.correlation, 77U);
  EXPECT_EQ(from_message(std::get<msg::Error>(came.envelope.body)).code, Code::kTooLarge);
}

TEST(Bus, TellsWhenAPeersConnectionIsGone) {
  Bus router;
  std::promise<std::string> peer;
  std::promise<std::string> gone;
  std::once_flag told;
  const auto bound = router.bind_router(
      "127.0.0.1:0", [&](const Incoming& incoming) { peer.set_value(incoming.peer); },
      [&](const std::string& name) { std::call_once(told, [&] { gone.set_value(name); }); });
  ASSERT_TRUE(bound);
  std::string name;
  {
    Bus dealer;
    const auto socket = dealer.connect_dealer("127.0.0.1:" + std::to_string(router.port(*bound)), [](Incoming) {});
    ASSERT_TRUE(socket);
    dealer.send(*socket, message(msg::Ok{}));
    name = peer.get_future().get();
  }
  auto came = gone.get_future();
  for (int i = 0; i < 1000 && came.wait_for(10ms) != std::future_status::ready; ++i) {
    router.send(*bound, name, message(msg::Ok{}));
  }
  ASSERT_EQ(came.wait_for(0s), std::future_status::ready);
  EXPECT_EQ(came.get(), name);
}

TEST(Bus, SaysWhenAPortIsTaken) {
  Echo echo;
  Bus bus;
  const auto second = bus.bind_router(echo.address(), [](Incoming) {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kUnavailable);
  EXPECT_EQ(bus.bind_router("no-port", [](Incoming) {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(bus.bind_router("host:12x", [](Incoming) {}).error().code, Code::kInvalidArgument);
}

TEST(Bus, ReachesSubscribersWithWhatIsPublished) {
  Bus publisher;
  const auto out = publisher.bind_publisher("127.0.0.1:0");
  ASSERT_TRUE(out);
  Bus subscriber;
  std::promise<std::uint64_t> revision;
  std::once_flag once;
  const auto in =
      subscriber.connect_subscriber("127.0.0.1:" + std::to_string(publisher.port(*out)), [&](Incoming incoming) {
        std::call_once(once,
                       [&] { revision.set_value(std::get<msg::Changed>(incoming.message.envelope.body).revision); });
      });
  ASSERT_TRUE(in);
  auto came = revision.get_future();
  // A subscription takes effect at some later moment: publish until it has.
  for (int i = 0; i < 1000 && came.wait_for(10ms) != std::future_status::ready; ++i) {
    publisher.send(*out,
                   message(msg::Changed{
                       .revision = 12, .subject = msg::Subject::kModel, .key = "m", .last_event = 0, .state = {}}));
  }
  ASSERT_EQ(came.wait_for(0s), std::future_status::ready);
  EXPECT_EQ(came.get(), 12U);
}

TEST(Bus, SendsWhatIsQueuedBeforeItStops) {
  Echo echo;
  constexpr int kCount = 1000;
  {
    Bus bus;
    std::promise<void> connected;
    std::once_flag once;
    const auto socket =
        bus.connect_dealer(echo.address(), [&](Incoming) { std::call_once(once, [&] { connected.set_value(); }); });
    ASSERT_TRUE(socket);
    bus.send(*socket, message(msg::Ok{}));
    ASSERT_EQ(connected.get_future().wait_for(10s), std::future_status::ready);
    for (int i = 1; i < kCount; ++i) bus.send(*socket, message(msg::Ok{}));
    bus.stop(10s);
  }
  for (int i = 0; i < 1000 && echo.received < kCount; ++i) {
    std::promise<void> turn;
    echo.bus.post([&] { turn.set_value(); });
    turn.get_future().wait_for(100ms);
  }
  EXPECT_EQ(echo.received, kCount);
}

}  // namespace
}  // namespace slipway

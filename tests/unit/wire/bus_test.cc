#include "lib/wire/bus.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <zmq.hpp>

#include "lib/base/readings.h"

namespace slipway {
namespace {

using namespace std::chrono_literals;

Message message(msg::Body body, std::uint64_t correlation = 1, std::vector<Frame> payload = {}) {
  return {.envelope = {.correlation = correlation, .deadline_ms = 0, .request_id = {}, .body = std::move(body)},
          .payload = std::move(payload)};
}

double reading(const std::string& name) {
  for (const auto& value : Reading::all()) {
    if (value.name == name) return value.value;
  }
  return 0;
}

// Low enough to be crossed by a test.
constexpr Bus::Limits kTightLimits{.max_queued_messages = 100,
                                   .max_waiting_messages = 100,
                                   .max_waiting_bytes = 1 << 20,
                                   .max_frame_bytes = 65536,
                                   .max_frames = 8,
                                   .max_message_bytes = 8 << 20};

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

// Runs `work` on the bus thread and waits for what it returns.
template <class Work>
auto on_bus(Bus& bus, Work work) {
  std::promise<decltype(work())> done;
  bus.post([&] { done.set_value(work()); });
  return done.get_future().get();
}

// Sends frames as they are to `address`; returns the envelope of what comes back.
Result<msg::Envelope> raw_exchange(const std::string& address, const std::vector<std::string>& frames) {
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.set(zmq::sockopt::rcvtimeo, 10'000);
  stranger.connect("tcp://" + address);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    stranger.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
  zmq::message_t answer;
  if (!stranger.recv(answer)) return fail(Code::kDeadlineExceeded, "no answer");
  return decode(std::as_bytes(std::span(static_cast<const char*>(answer.data()), answer.size())));
}

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

TEST(Bus, AnswersAMessageOfTooManyFramesWithAnErrorUnderItsCorrelation) {
  Echo echo("127.0.0.1:0", kTightLimits);
  for (const std::size_t count : {std::size_t{9}, std::size_t{5'000}}) {
    std::vector<std::string> frames(count + 1, "x");
    frames[0] = encode(message(msg::Ok{}, 12).envelope).text();
    const auto answer = raw_exchange(echo.address(), frames);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->correlation, 12U);
    EXPECT_EQ(from_message(std::get<msg::Error>(answer->body)).code, Code::kTooLarge);
  }
  EXPECT_EQ(echo.received, 0);
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
  EXPECT_EQ(code(message(msg::GetModel{std::string(65536, 'm')})), Code::kTooLarge);
  EXPECT_EQ(code(message(msg::Ok{}, 1, std::vector<Frame>(8, Frame::copy("x")))), std::nullopt);
  EXPECT_EQ(code(message(msg::Ok{}, 1, std::vector<Frame>(9, Frame::copy("x")))), Code::kTooLarge);
  const Frame large = Frame::of(std::string(8 << 20, 'x'));
  EXPECT_EQ(code(message(msg::Ok{}, 1, {large})), std::nullopt);
  EXPECT_EQ(code(message(msg::Ok{}, 1, {large, Frame::copy("x")})), Code::kTooLarge);
}

// Payload of every number and size within the limits travels, whatever a frame on the wire may hold.
TEST(Bus, CarriesManyFramesAndFramesLargerThanTheWireTakes) {
  Echo echo;
  Bus bus;
  std::promise<Message> answer;
  const auto socket =
      bus.connect_dealer(echo.address(), [&](Incoming incoming) { answer.set_value(std::move(incoming.message)); });
  ASSERT_TRUE(socket);
  const auto there_and_back = [&](const std::vector<Frame>& payload) {
    answer = {};
    auto came = answer.get_future();
    const auto sent = bus.send(*socket, message(msg::Ok{}, 1, payload));
    ASSERT_TRUE(sent) << sent.error().message;
    ASSERT_EQ(came.wait_for(60s), std::future_status::ready);
    const Message back = came.get();
    ASSERT_EQ(back.payload.size(), payload.size());
    for (std::size_t i = 0; i < payload.size(); ++i) EXPECT_TRUE(back.payload[i].text() == payload[i].text()) << i;
    EXPECT_TRUE(back.envelope.payload_bytes.empty());
  };
  std::vector<std::uint32_t> numbers(200 << 18);  // 200 MiB, each place different
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint32_t>(i * 2654435761U);
  const Frame large = Frame::of(std::move(numbers));
  there_and_back(std::vector<Frame>(256, Frame::copy("x")));
  there_and_back({large});
  there_and_back({Frame(), large.part(1, kMaxFrameBytes), large.part(4, kMaxFrameBytes + 1), Frame::copy("y"), Frame(),
                  large.part(9, 50'000'001)});
  std::vector<Frame> all(255, Frame::copy("x"));
  all.push_back(large.part(0, 40 << 20));
  there_and_back(all);
  EXPECT_EQ(bus.malformed_total() + echo.bus.malformed_total(), 0U);
}

TEST(Bus, RefusesPayloadSizesThatDoNotAddUpUnderTheirCorrelation) {
  Echo echo("127.0.0.1:0", kTightLimits);
  for (const std::vector<std::uint64_t>& sizes : {std::vector<std::uint64_t>{7},
                                                  {5, 0},
                                                  {5, UINT64_MAX},
                                                  {UINT64_MAX, 6},
                                                  std::vector<std::uint64_t>(100'000, 0)}) {
    msg::Envelope envelope = message(msg::Ok{}, 4711).envelope;
    envelope.payload_bytes = sizes;
    if (sizes.size() > 8'000) envelope.payload_bytes.resize(8'000);  // what a frame of 64 KiB holds
    const auto answer = raw_exchange(echo.address(), {std::string(encode(envelope).text()), "123", "456"});
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(answer->correlation, 4711U);
    EXPECT_TRUE(std::holds_alternative<msg::Error>(answer->body));
  }
  EXPECT_EQ(echo.received, 0);
}

// A dealer's own question must not wait for its deadline because the answer was refused.
TEST(Bus, HandsADealerTheErrorInPlaceOfAnAnswerThatIsRefused) {
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::router);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.bind("tcp://127.0.0.1:*");
  Bus bus;
  std::promise<Message> answer;
  const auto socket = bus.connect_dealer(stranger.get(zmq::sockopt::last_endpoint).substr(6),
                                         [&](Incoming incoming) { answer.set_value(std::move(incoming.message)); });
  ASSERT_TRUE(socket);
  ASSERT_TRUE(bus.send(*socket, message(msg::Ok{}, 5)));
  zmq::message_t peer;
  zmq::message_t question;
  ASSERT_TRUE(stranger.recv(peer));
  ASSERT_TRUE(stranger.recv(question));
  msg::Envelope envelope = message(msg::Ok{}, 5).envelope;
  envelope.payload_bytes = {1'000};
  stranger.send(peer, zmq::send_flags::sndmore);
  stranger.send(zmq::buffer(encode(envelope).text()), zmq::send_flags::none);
  const Message came = answer.get_future().get();
  EXPECT_EQ(came.envelope.correlation, 5U);
  EXPECT_TRUE(std::holds_alternative<msg::Error>(came.envelope.body));
}

TEST(Bus, GoesOnWhenAHandlerATickOrPostedWorkThrows) {
  const double before = reading("slipway_bus_thrown_total");
  Bus router;
  const auto bound = router.bind_router("127.0.0.1:0", [&](const Incoming& incoming) {
    if (std::holds_alternative<msg::GetModel>(incoming.message.envelope.body)) throw std::out_of_range("substr");
    router.send(incoming.socket, incoming.peer, message(msg::Ok{}, incoming.message.envelope.correlation));
  });
  ASSERT_TRUE(bound);
  router.post([] { throw std::runtime_error("posted"); });
  std::promise<void> ticked;
  router.on_tick([&, count = 0](auto) mutable {
    if (++count == 1) throw 42;
    if (count > 2) return;
    ticked.set_value();
    throw std::runtime_error("tick");
  });
  ticked.get_future().wait();
  Bus bus;
  std::promise<Message> first;
  std::promise<Message> second;
  const auto socket = bus.connect_dealer("127.0.0.1:" + std::to_string(router.port(*bound)), [&](Incoming incoming) {
    (incoming.message.envelope.correlation == 1 ? first : second).set_value(std::move(incoming.message));
  });
  ASSERT_TRUE(socket);
  ASSERT_TRUE(bus.send(*socket, message(msg::GetModel{"m"}, 1)));
  ASSERT_TRUE(bus.send(*socket, message(msg::Ok{}, 2)));
  EXPECT_TRUE(std::holds_alternative<msg::Ok>(second.get_future().get().envelope.body));
  const Message told = first.get_future().get();
  EXPECT_EQ(from_message(std::get<msg::Error>(told.envelope.body)).code, Code::kInternal);
  EXPECT_GE(router.thrown_total(), 4U);
  EXPECT_EQ(reading("slipway_bus_thrown_total"), before + static_cast<double>(router.thrown_total()));
}

// A signal that a profiler or debugger sends interrupts what libzmq does; it is no error.
TEST(Bus, GoesOnWhenSignalsInterruptIt) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, &before);  // without SA_RESTART
  Echo echo;
  const pthread_t bus_thread = on_bus(echo.bus, [] { return pthread_self(); });
  Bus bus;
  std::promise<void> all;
  int answered = 0;
  constexpr int kCount = 2'000;
  const auto socket = bus.connect_dealer(echo.address(), [&](const Incoming&) {
    if (++answered == kCount) all.set_value();
  });
  ASSERT_TRUE(socket);
  for (int i = 0; i < kCount; ++i) {
    ASSERT_TRUE(bus.send(*socket, message(msg::Ok{})));
    pthread_kill(bus_thread, SIGUSR1);
  }
  EXPECT_EQ(all.get_future().wait_for(60s), std::future_status::ready);
  EXPECT_EQ(echo.bus.thrown_total(), 0U);
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(Bus, KeepsNobodyWaitingOnceItHasStopped) {
  Bus bus;
  bool last = false;
  bus.on_stopped([&] { last = true; });
  bus.stop();
  EXPECT_TRUE(last);
  EXPECT_EQ(bus.bind_router("127.0.0.1:0", [](const Incoming&) {}).error().code, Code::kUnavailable);
  EXPECT_EQ(bus.send(SocketId{1}, message(msg::Ok{})).error().code, Code::kUnavailable);
  EXPECT_FALSE(bus.post([] {}));
}

TEST(Bus, CountsWhatItCouldNotUseAndSend) {
  const auto malformed = reading("slipway_bus_malformed_total");
  const auto undelivered = reading("slipway_bus_undelivered_total");
  {
    Echo echo;
    ASSERT_TRUE(raw_exchange(echo.address(), {"garbage"}));
    EXPECT_FALSE(on_bus(echo.bus, [&] { return echo.bus.send(echo.socket, "nobody", message(msg::Ok{})); }));
    EXPECT_EQ(reading("slipway_bus_malformed_total"), malformed + 1);
  }
  EXPECT_EQ(reading("slipway_bus_malformed_total"), malformed + 1) << "a counter does not go back";
  EXPECT_EQ(reading("slipway_bus_undelivered_total"), undelivered + 1);
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
    router.knock(*bound, name);
  }
  ASSERT_EQ(came.wait_for(0s), std::future_status::ready);
  EXPECT_EQ(came.get(), name);
  EXPECT_EQ(on_bus(router, [&] { return router.knock(*bound, name); }).error().code, Code::kUnavailable);
}

// A peer that does not read must not get a message more each time somebody wants to know whether it is there.
TEST(Bus, KnocksAtNobodyForWhomMessagesWait) {
  Bus router(kTightLimits);
  std::promise<std::string> peer;
  const auto bound =
      router.bind_router("127.0.0.1:0", [&](const Incoming& incoming) { peer.set_value(incoming.peer); });
  ASSERT_TRUE(bound);
  zmq::context_t context;
  zmq::socket_t deaf(context, zmq::socket_type::dealer);
  deaf.set(zmq::sockopt::linger, 0);
  deaf.set(zmq::sockopt::rcvhwm, 1);
  deaf.connect("tcp://127.0.0.1:" + std::to_string(router.port(*bound)));
  deaf.send(zmq::buffer(encode(message(msg::Ok{}).envelope).text()), zmq::send_flags::none);
  const std::string name = peer.get_future().get();
  const Frame payload = Frame::of(std::string(60'000, 'x'));
  const auto full = on_bus(router, [&] {
    for (int i = 0; i < 100'000; ++i) {
      if (!router.send(*bound, name, message(msg::Ok{}, 1, {payload}))) return true;
    }
    return false;
  });
  ASSERT_TRUE(full);
  const auto before = router.undelivered_total();
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(router.knock(*bound, name));
  EXPECT_TRUE(on_bus(router, [&] { return router.knock(*bound, name); }));
  EXPECT_EQ(router.undelivered_total(), before);
}

// Sends messages under `correlation` to whoever sends one, and is gone once they are on their way.
void answer_and_go(const std::string& address, std::uint64_t correlation) {
  zmq::context_t context;
  zmq::socket_t router(context, zmq::socket_type::router);
  router.bind("tcp://" + address);
  zmq::message_t peer;
  zmq::message_t question;
  ASSERT_TRUE(router.recv(peer));
  ASSERT_TRUE(router.recv(question));
  const Frame answer = encode(message(msg::Ok{}, correlation).envelope);
  for (int i = 0; i < 500; ++i) {
    router.send(zmq::buffer(peer.to_string_view()), zmq::send_flags::sndmore);
    router.send(zmq::buffer(answer.text()), zmq::send_flags::none);
  }
  router.set(zmq::sockopt::linger, 20'000);
}

TEST(Bus, TellsEachTimeThatAConnectionIsLostAndNothingComesThroughItAfterwards) {
  std::string address;
  {
    Echo free_port;
    address = free_port.address();
  }
  Bus bus;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t lost = 0;
  bool late = false;
  const auto socket = bus.connect_dealer(
      address,
      [&](const Incoming& incoming) {
        const std::lock_guard lock(mutex);
        late = late || incoming.message.envelope.correlation <= lost;
      },
      [&] {
        const std::lock_guard lock(mutex);
        ++lost;
        changed.notify_all();
      });
  ASSERT_TRUE(socket);
  for (std::uint64_t round = 1; round <= 3; ++round) {
    ASSERT_TRUE(bus.send(*socket, message(msg::Ok{})));  // waits until somebody is there
    answer_and_go(address, round);
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, 20s, [&] { return lost == round; }));
  }
  const std::lock_guard lock(mutex);
  EXPECT_FALSE(late);
}

// Connections of this process to a port of the loopback address that have not been closed here.
int connections_to(int port) {
  std::ifstream table("/proc/self/net/tcp");
  int count = 0;
  std::string line;
  std::getline(table, line);
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string number, local, remote, state;
    fields >> number >> local >> remote >> state;
    const bool is_open = state == "01" || state == "08";  // established, or closed by the other side alone
    if (is_open && std::stoi(remote.substr(remote.find(':') + 1), nullptr, 16) == port) ++count;
  }
  return count;
}

// libzmq ends the process when it learns in the middle of a message that a connection is gone.
TEST(Bus, OutlivesAPeerThatGoesWhileItsMessagesAreRead) {
  constexpr int kMessages = 400;
  for (const int frames : {1, 2, 3, 6}) {
    auto context = std::make_unique<zmq::context_t>();
    zmq::socket_t peer(*context, zmq::socket_type::router);
    peer.set(zmq::sockopt::linger, 20'000);  // all of it arrives before it goes
    peer.set(zmq::sockopt::sndhwm, 2 * kMessages);
    peer.bind("tcp://127.0.0.1:*");
    const std::string endpoint = peer.get(zmq::sockopt::last_endpoint);
    const int port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1));

    std::promise<void> reading, gone;
    std::atomic<int> came = 0;
    Bus bus;
    auto socket = bus.connect_dealer("127.0.0.1:" + std::to_string(port), [&](Incoming) {
      if (++came != 1) return;
      reading.set_value();
      gone.get_future().wait();
    });
    ASSERT_TRUE(socket);
    bus.send(*socket, message(msg::Ok{}));
    zmq::message_t id, hello;
    ASSERT_TRUE(peer.recv(id));
    ASSERT_TRUE(peer.recv(hello));
    const Frame envelope = encode(message(msg::Ok{}).envelope);
    const auto bytes = envelope.text();
    for (int i = 0; i < kMessages; ++i) {
      peer.send(zmq::buffer(id.to_string()), zmq::send_flags::sndmore);
      peer.send(zmq::buffer(bytes), frames > 1 ? zmq::send_flags::sndmore : zmq::send_flags::none);
      for (int frame = 1; frame < frames; ++frame)
        peer.send(zmq::str_buffer("x"), frame + 1 < frames ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
    reading.get_future().wait();
    peer.close();
    context.reset();
    while (connections_to(port) > 0) std::this_thread::yield();
    gone.set_value();
    on_bus(bus, [] { return true; });
    EXPECT_GE(came, 1);
  }
}

TEST(Bus, KnowsWhatADealerHasNotSentYet) {
  Bus bus;
  const auto socket = bus.connect_dealer("127.0.0.1:1", [](Incoming) {});  // nobody is there
  ASSERT_TRUE(socket);
  const auto waiting = on_bus(bus, [&] {
    (void)bus.send(*socket, message(msg::Ok{}, 9));
    (void)bus.send(*socket, message(msg::Ok{}, 7));
    return bus.waiting(*socket);
  });
  EXPECT_EQ(waiting, (std::vector<std::uint64_t>{7, 9}));
  EXPECT_TRUE(on_bus(bus, [&] { return bus.waiting(SocketId{99}); }).empty());
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
  const auto end = std::chrono::steady_clock::now() + 10s;  // the other side may be slow to read
  while (echo.received < kCount && std::chrono::steady_clock::now() < end) {
    std::promise<void> turn;
    echo.bus.post([&] { turn.set_value(); });
    turn.get_future().wait();
  }
  EXPECT_EQ(echo.received, kCount);
}

}  // namespace
}  // namespace slipway

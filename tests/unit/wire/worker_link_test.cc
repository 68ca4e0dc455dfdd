#include "lib/wire/worker_link.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <format>
#include <fstream>
#include <future>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "lib/base/random_id.h"

namespace slipway {
namespace {

using namespace std::chrono_literals;

// The gateway's side, by script: what workers say is kept, `answer_to_hello` is what they hear.
class Gateway {
 public:
  explicit Gateway(msg::Body answer_to_hello, const std::string& address = "127.0.0.1:0") {
    auto bound = bus.bind_router(address, [this, answer = std::move(answer_to_hello)](Incoming incoming) {
      const std::lock_guard lock(mutex);
      if (std::holds_alternative<msg::Hello>(incoming.message.envelope.body)) {
        ++hellos;
        secret = incoming.message.envelope.secret;
        peer = incoming.peer;
        send(answer);
      } else if (auto* beat = std::get_if<msg::Heartbeat>(&incoming.message.envelope.body)) {
        if (ask_again) {
          ask_again = false;
          send(msg::Rehello{});
        }
        (void)bus.knock(socket, incoming.peer);
        last_beat = *beat;
        ++beats;
        leaving = incoming.message.envelope.correlation;
      } else if (auto* error = std::get_if<msg::Error>(&incoming.message.envelope.body)) {
        refused = from_message(*error).code;
        refused_correlation = incoming.message.envelope.correlation;
      }
      changed.notify_all();
    });
    EXPECT_TRUE(bound);
    socket = *bound;
  }
  void send(msg::Body body, std::uint64_t correlation = 0) {
    bus.send(socket, peer,
             {.envelope = {.correlation = correlation, .deadline_ms = 0, .request_id = {}, .body = std::move(body)},
              .payload = {}});
  }
  template <class Condition>
  bool wait_until(Condition condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 20s, condition);
  }
  [[nodiscard]] std::optional<msg::Heartbeat> heard() {
    const std::lock_guard lock(mutex);
    return last_beat;
  }
  [[nodiscard]] int beats_so_far() {
    const std::lock_guard lock(mutex);
    return beats;
  }
  [[nodiscard]] std::uint64_t last_leaving() {
    const std::lock_guard lock(mutex);
    return leaving;
  }
  [[nodiscard]] int hellos_so_far() {
    const std::lock_guard lock(mutex);
    return hellos;
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket)); }

  std::mutex mutex;
  std::condition_variable changed;
  int hellos = 0;
  int beats = 0;
  bool ask_again = false;
  std::uint64_t leaving = 0;  // correlation of the last heartbeat
  std::string peer;
  std::string secret;
  std::optional<msg::Heartbeat> last_beat;
  std::optional<Code> refused;
  std::uint64_t refused_correlation = 0;
  Bus bus;
  SocketId socket{};
};

const msg::Hello kHello{.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("w"), .host = "h"};

msg::Heartbeat beat(std::uint32_t credits) { return {.credits = credits, .loaded = {{"m", 1}}, .draining = false}; }

TEST(WorkerLink, SharesItsCreditsAmongTheGatewaysThatWelcomedIt) {
  Gateway one(msg::Welcome{"one"});
  Gateway two(msg::Welcome{"two"});
  Bus bus;
  WorkerLink link(bus, kHello, {one.address(), two.address()}, [] { return beat(5); }, [](Incoming) {});
  ASSERT_TRUE(one.wait_until([&] { return one.last_beat && one.last_beat->credits < 5; }));
  ASSERT_TRUE(two.wait_until([&] { return two.last_beat && two.last_beat->credits < 5; }));
  EXPECT_EQ(one.heard()->credits + two.heard()->credits, 5U);
  EXPECT_EQ(one.heard()->loaded, (std::vector<msg::VersionKey>{{"m", 1}}));
  EXPECT_EQ(link.welcomed(), 2);
}

TEST(WorkerLink, DoesNotCountAGatewayThatRefusesIt) {
  Gateway good(msg::Welcome{"good"});
  Gateway other(to_message({.code = Code::kInvalidArgument, .message = "release r came, wanted s", .path = {}}));
  Bus bus;
  WorkerLink link(bus, kHello, {good.address(), other.address()}, [] { return beat(4); }, [](Incoming) {});
  ASSERT_TRUE(other.wait_until([&] { return other.hellos > 0; }));
  ASSERT_TRUE(good.wait_until([&] { return good.last_beat.has_value(); }));
  EXPECT_EQ(good.heard()->credits, 4U);
  EXPECT_EQ(link.welcomed(), 1);
  EXPECT_FALSE(other.heard());
}

TEST(WorkerLink, SaysHelloAgainWhenAsked) {
  Gateway gateway(msg::Welcome{"g"});
  gateway.ask_again = true;
  Bus bus;
  WorkerLink link(bus, kHello, {gateway.address()}, [] { return beat(1); }, [](Incoming) {});
  EXPECT_TRUE(gateway.wait_until([&] { return gateway.hellos >= 2; }));
}

TEST(WorkerLink, ShowsTheClustersSecretWithHello) {
  Gateway gateway(msg::Welcome{"g"});
  Bus bus;
  WorkerLink link(bus, kHello, {gateway.address()}, [] { return beat(1); }, [](Incoming) {}, "s3cret");
  EXPECT_TRUE(gateway.wait_until([&] { return gateway.secret == "s3cret"; }));
}

TEST(WorkerLink, FindsAGatewayThatIsReplacedAtTheSameAddress) {
  auto first = std::make_unique<Gateway>(msg::Welcome{"first"});
  const std::string address = first->address();
  Bus bus;
  WorkerLink link(bus, kHello, {address}, [] { return beat(1); }, [](Incoming) {});
  ASSERT_TRUE(first->wait_until([&] { return first->last_beat.has_value(); }));
  first.reset();
  Gateway second(msg::Welcome{"second"}, address);
  // It does not know the worker: its heartbeat is answered with REHELLO.
  ASSERT_TRUE(second.wait_until([&] { return second.last_beat.has_value() || second.hellos > 0; }));
}

TEST(WorkerLink, HandsRequestsOverAndResolvesNames) {
  Gateway gateway(msg::Welcome{"g"});
  Bus bus;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t asked = 0;
  WorkerLink link(
      bus, kHello, {"localhost:" + std::to_string(gateway.bus.port(gateway.socket))}, [] { return beat(1); },
      [&](Incoming incoming) {
        const std::lock_guard lock(mutex);
        asked = incoming.message.envelope.correlation;
        changed.notify_all();
      });
  ASSERT_TRUE(gateway.wait_until([&] { return gateway.last_beat.has_value(); }));
  gateway.send(msg::Infer{}, 77);
  std::unique_lock lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, 20s, [&] { return asked == 77; }));
}

TEST(WorkerLink, FindsTheGatewaysOfAFileThatChanges) {
  Gateway first(msg::Welcome{"first"});
  Gateway second(msg::Welcome{"second"});
  const auto path = std::filesystem::temp_directory_path() / std::format("gateways-{}-{}", getpid(), random_hex(64));
  const auto write = [&](const std::string& text) {
    const auto aside = path.string() + ".new";
    std::ofstream(aside) << text;
    std::filesystem::rename(aside, path);
  };
  write("# gateways\n\n  " + first.address() + "  # the first\n");
  {
    Bus bus;
    WorkerLink link(bus, kHello, {"@" + path.string()}, [] { return beat(1); }, [](const Incoming&) {});
    ASSERT_TRUE(first.wait_until([&] { return first.last_beat.has_value(); }));
    EXPECT_EQ(second.hellos_so_far(), 0);
    write(first.address() + "\n" + second.address() + "\n");
    ASSERT_TRUE(second.wait_until([&] { return second.last_beat.has_value(); }));
    // A file that has gone is not an empty one.
    std::filesystem::remove(path);
    ASSERT_TRUE(first.wait_until([&, before = first.beats_so_far()] { return first.beats > before + 3; }));
    EXPECT_EQ(link.welcomed(), 2);
  }
}

// A file of addresses that is replaced whole.
class AddressFile {
 public:
  ~AddressFile() { remove(); }
  AddressFile() = default;
  AddressFile(const AddressFile&) = delete;
  AddressFile& operator=(const AddressFile&) = delete;
  void write(const std::string& text) const {
    const auto aside = path_.string() + ".new";
    std::ofstream(aside) << text;
    std::filesystem::rename(aside, path_);
  }
  void remove() const { std::filesystem::remove(path_); }
  [[nodiscard]] std::string place() const { return "@" + path_.string(); }

 private:
  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / std::format("gateways-{}-{}", getpid(), random_hex(64));
};

template <class Condition>
bool comes_true(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
  return condition();
}

const WorkerLink::Times kQuick{.resolve_every = 20ms, .unheard = 2500ms, .silence = 2500ms};

TEST(WorkerLink, ServesGatewaysOfBothAddressFamilies) {
  Gateway four(msg::Welcome{"4"});
  Gateway six(msg::Welcome{"6"}, "[::1]:0");
  Bus bus;
  WorkerLink link(
      bus, kHello, {four.address(), std::format("[::1]:{}", six.bus.port(six.socket))}, [] { return beat(2); },
      [](const Incoming&) {});
  EXPECT_TRUE(four.wait_until([&] { return four.last_beat.has_value(); }));
  EXPECT_TRUE(six.wait_until([&] { return six.last_beat.has_value(); }));
}

TEST(WorkerLink, ForgetsAGatewayThatIsGoneAndSilentOnlyWhenWholeAnswersDoNotNameIt) {
  Gateway stays(msg::Welcome{"stays"});
  auto goes = std::make_unique<Gateway>(msg::Welcome{"goes"});
  const AddressFile file;
  file.write(stays.address() + "\n" + goes->address() + "\n");
  Bus bus;
  WorkerLink link(bus, kHello, {file.place()}, [] { return beat(4); }, [](const Incoming&) {}, {}, kQuick);
  ASSERT_TRUE(comes_true([&] { return link.welcomed() == 2; }));
  goes.reset();
  // Its credits go to the one that answers, but while it is named it may come back.
  ASSERT_TRUE(stays.wait_until([&] { return stays.last_beat && stays.last_beat->credits == 4; }));
  EXPECT_EQ(link.dialled(), 2);
  file.remove();  // an answer that is not whole
  ASSERT_TRUE(stays.wait_until([&, before = stays.beats_so_far()] { return stays.beats > before + 3; }));
  EXPECT_EQ(link.dialled(), 2);
  file.write(stays.address() + "\n");
  EXPECT_TRUE(comes_true([&] { return link.dialled() == 1; }));
  EXPECT_EQ(link.welcomed(), 1);
}

TEST(WorkerLink, KeepsAGatewayThatAnswersWhateverTheListSays) {
  Gateway gateway(msg::Welcome{"g"});
  const AddressFile file;
  file.write(gateway.address() + "\n");
  Bus bus;
  WorkerLink link(bus, kHello, {file.place()}, [] { return beat(1); }, [](const Incoming&) {}, {}, kQuick);
  ASSERT_TRUE(comes_true([&] { return link.welcomed() == 1; }));
  file.write("");
  // Longer than a silent one would have been kept.
  ASSERT_TRUE(gateway.wait_until([&, before = gateway.beats_so_far()] { return gateway.beats > before + 4; }));
  EXPECT_EQ(link.welcomed(), 1);
}

TEST(WorkerLink, IsLetGoOnceEveryGatewayHasAnsweredThatItLeaves) {
  Gateway first(msg::Welcome{"first"});
  Gateway second(msg::Welcome{"second"});
  Bus bus;
  std::atomic<bool> draining = false;
  WorkerLink link(
      bus, kHello, {first.address(), second.address()},
      [&] {
        auto state = beat(1);
        state.draining = draining;
        return state;
      },
      [](const Incoming&) {});
  ASSERT_TRUE(first.wait_until([&] { return first.last_beat.has_value(); }));
  ASSERT_TRUE(second.wait_until([&] { return second.last_beat.has_value(); }));
  EXPECT_EQ(first.last_leaving(), 0U) << "only that is answered";
  EXPECT_FALSE(link.let_go());
  draining = true;
  link.announce();
  for (Gateway* gateway : {&first, &second}) {
    EXPECT_FALSE(link.let_go());
    ASSERT_TRUE(gateway->wait_until([&] { return gateway->leaving != 0; }));
    gateway->send(msg::Ok{}, gateway->last_leaving());
  }
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!link.let_go() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_TRUE(link.let_go());
}

// A trainer's credit says that it is idle: every gateway may offer it work. An inferencer's is shared out.
TEST(WorkerLink, ATrainersCreditGoesToEveryGateway) {
  for (const msg::Role role : {msg::Role::kTrainer, msg::Role::kInferencer}) {
    Gateway first(msg::Welcome{"first"});
    Gateway second(msg::Welcome{"second"});
    Bus bus;
    msg::Hello hello = kHello;
    hello.role = role;
    WorkerLink link(bus, hello, {first.address(), second.address()}, [] { return beat(1); }, [](const Incoming&) {});
    const auto credits = [&] {
      link.announce();
      const auto one = first.heard();
      const auto two = second.heard();
      return link.welcomed() == 2 && one && two ? std::optional(one->credits + two->credits) : std::nullopt;
    };
    const std::uint32_t wanted = role == msg::Role::kTrainer ? 2 : 1;
    EXPECT_TRUE(first.wait_until([&] { return link.welcomed() == 2; }));
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (credits() != wanted && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    EXPECT_EQ(credits(), wanted);
  }
}

TEST(WorkerLink, AnswersARequestWhoseHandlerThrows) {
  Gateway gateway(msg::Welcome{"g"});
  Bus bus;
  WorkerLink link(
      bus, kHello, {gateway.address()}, [] { return beat(1); },
      [](const Incoming&) { throw std::out_of_range("substr"); });
  ASSERT_TRUE(gateway.wait_until([&] { return gateway.last_beat.has_value(); }));
  gateway.send(msg::Infer{}, 77);
  ASSERT_TRUE(gateway.wait_until([&] { return gateway.refused.has_value(); }));
  EXPECT_EQ(*gateway.refused, Code::kInternal);
  EXPECT_EQ(gateway.refused_correlation, 77U);
  gateway.send(msg::Cancel{.correlation = 77});  // to which there is no answer
  for (int i = 0; i < 100'000 && bus.thrown_total() < 2; ++i) {
    std::promise<void> turn;
    bus.post([&] { turn.set_value(); });
    turn.get_future().wait();
  }
  EXPECT_EQ(bus.thrown_total(), 2U);
}

}  // namespace
}  // namespace slipway

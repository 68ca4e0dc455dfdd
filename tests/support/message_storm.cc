// Sends every kind of message that the schema knows to one port of a running service: empty, whole, with each field
// absent in turn, and with numbers and enumerators beyond all bounds.
//
//   message_storm dial HOST:PORT    to a gateway's or the registry's port
//   message_storm bind              to a worker: prints the port to dial, welcomes who comes, then sends to it
//
// SLIPWAY_CLUSTER_SECRET, if it is set, goes with every message, so that what is behind the secret is reached too.
// Ends with 0 once everything was sent and a last question was answered (dial), or a heartbeat came after it (bind).
#include <atomic>
#include <boost/pfr.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <print>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "lib/base/service.h"
#include "lib/wire/bus.h"

namespace {

using namespace slipway;
using namespace std::chrono_literals;

enum class Style : std::uint8_t { kPlausible, kExtreme };

template <class T>
constexpr bool is_vector = false;
template <class T>
constexpr bool is_vector<std::vector<T>> = true;
template <class T>
constexpr bool is_id = false;
template <class Tag>
constexpr bool is_id<Id<Tag>> = true;

// Fills every field below `value` but the `skipped`th in the order of a walk; counts the walk in `at`.
class Filler {
 public:
  Filler(Style style, std::size_t skipped) : style_(style), skipped_(skipped) {}
  [[nodiscard]] std::size_t fields() const { return at_; }

  template <class T>
  void fill(T& value) {
    if (at_++ == skipped_) return;
    const bool extreme = style_ == Style::kExtreme;
    if constexpr (std::is_same_v<T, std::string>) {
      value = extreme ? std::string(300, '\xff') : "1";
    } else if constexpr (is_id<T>) {
      value = T(extreme ? std::string("../../\n\0x", 9) : "job-1");
    } else if constexpr (std::is_same_v<T, Digest>) {
      value.bytes.fill(extreme ? 0xff : 1);
    } else if constexpr (std::is_same_v<T, bool>) {
      value = true;
    } else if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(extreme ? 999 : 1);
    } else if constexpr (std::is_arithmetic_v<T>) {
      value = extreme ? (std::is_signed_v<T> ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max()) : T{1};
    } else if constexpr (is_vector<T>) {
      value.resize(extreme ? 3 : 1);
      for (auto& item : value) fill(item);
    } else {
      boost::pfr::for_each_field(value, [this](auto& field) { fill(field); });
    }
  }

 private:
  const Style style_;
  const std::size_t skipped_;
  std::size_t at_ = 0;
};

constexpr auto kNone = std::numeric_limits<std::size_t>::max();

template <class Kind>
void add_forms_of(std::vector<msg::Body>& forms) {
  forms.emplace_back(Kind{});
  if constexpr (boost::pfr::tuple_size_v<Kind> > 0) {
    for (const Style style : {Style::kPlausible, Style::kExtreme}) {
      Kind whole{};
      Filler counter(style, kNone);
      boost::pfr::for_each_field(whole, [&](auto& field) { counter.fill(field); });
      forms.emplace_back(whole);
      for (std::size_t skipped = 0; skipped < counter.fields(); ++skipped) {
        Kind lacking{};
        Filler filler(style, skipped);
        boost::pfr::for_each_field(lacking, [&](auto& field) { filler.fill(field); });
        forms.emplace_back(std::move(lacking));
      }
    }
  }
}

std::vector<msg::Body> all_forms() {
  std::vector<msg::Body> forms;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (add_forms_of<std::variant_alternative_t<I, msg::Body>>(forms), ...);
  }(std::make_index_sequence<std::variant_size_v<msg::Body>>{});
  return forms;
}

std::string secret() {
  const char* given = std::getenv("SLIPWAY_CLUSTER_SECRET");
  return given == nullptr ? "" : given;
}

Message message_of(std::uint64_t correlation, msg::Body body) {
  Message message;
  message.envelope.correlation = correlation;
  message.envelope.secret = secret();
  message.envelope.body = std::move(body);
  return message;
}

// Each form with and without a correlation, and with none, one and three payload frames.
template <class Send>
std::size_t send_all(Send send) {
  std::size_t sent = 0;
  for (const msg::Body& body : all_forms()) {
    for (const std::uint64_t correlation : {0U, 1U, 7U}) {
      Message message = message_of(correlation, body);
      if (correlation == 7) message.envelope.deadline_ms = 1;
      const std::size_t frames = correlation == 7 ? 3 : correlation;
      for (std::size_t i = 0; i < frames; ++i) message.payload.push_back(Frame::of(std::string(i * 5, 'x')));
      send(std::move(message));
      ++sent;
    }
  }
  return sent;
}

class Flag {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool wait(std::chrono::seconds most) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, [this] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

constexpr std::uint64_t kLast = 4711;  // correlation of the question at the end

int dial(const std::string& address) {
  Bus bus;
  Flag answered;
  const auto socket = bus.connect_dealer(address, [&](const Incoming& incoming) {
    if (incoming.message.envelope.correlation == kLast) answered.set();
  });
  if (!socket) return std::println(stderr, "{}", socket.error().message), 1;
  // A gateway listens to those it knows, and some of what comes unmakes the acquaintance.
  const msg::Hello hello{.release = std::string(kDefaultReleaseId),
                         .role = msg::Role::kInferencer,
                         .worker_id = WorkerId("storm"),
                         .host = "here"};
  const std::size_t sent = send_all([&](Message message) {
    (void)bus.send(*socket, message_of(0, hello));
    (void)bus.send(*socket, std::move(message));
  });
  // The registry answers the first of these, a gateway the second.
  (void)bus.send(*socket, message_of(kLast, msg::GetJob{}));
  (void)bus.send(*socket, message_of(kLast, hello));
  if (!answered.wait(120s)) return std::println(stderr, "no answer after {} messages", sent), 1;
  std::println("{} messages", sent);
  return 0;
}

int bind_and_wait() {
  Bus bus;
  Flag alive;
  std::atomic<SocketId> own{};
  std::atomic<bool> begun = false;
  std::atomic<bool> sent_all = false;
  std::atomic<std::size_t> sent = 0;
  const auto say = [&](const std::string& peer, msg::Body body) {
    (void)bus.send(own, peer, message_of(0, std::move(body)));
  };
  const auto socket = bus.bind_router("127.0.0.1:0", [&](const Incoming& incoming) {
    const auto& body = incoming.message.envelope.body;
    if (std::holds_alternative<msg::Hello>(body)) {
      say(incoming.peer, msg::Welcome{.gateway_id = "storm"});
      if (sent_all) alive.set();
    }
    if (std::holds_alternative<msg::Heartbeat>(body)) {
      if (!begun.exchange(true)) {
        sent = send_all([&](Message message) { (void)bus.send(own, incoming.peer, std::move(message)); });
        sent_all = true;
      } else if (sent_all) {
        alive.set();
      }
      say(incoming.peer, msg::Ok{});
    }
  });
  if (!socket) return std::println(stderr, "{}", socket.error().message), 1;
  own = *socket;
  std::println("{}", bus.port(*socket));
  std::fflush(stdout);
  if (!alive.wait(120s)) return std::println(stderr, "no word from the worker after {} messages", sent.load()), 1;
  std::println("{} messages", sent.load());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  slipway::block_stop_signals();
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "dial" && argc == 3) return dial(argv[2]);
  if (mode == "bind" && argc == 2) return bind_and_wait();
  std::println(stderr, "usage: message_storm dial HOST:PORT | bind");
  return 2;
}

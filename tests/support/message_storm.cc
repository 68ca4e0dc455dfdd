// Sends every kind of message that the schema knows to one port of a running service, in the forms of message_forms.h.
//
//   message_storm registry HOST:PORT    to a registry's port for calls
//   message_storm gateway HOST:PORT     to a gateway's port for workers
//   message_storm bind                  to a worker: prints the port to dial, welcomes who comes, then sends to it
//   message_storm print                 to nobody: writes each envelope, after its size as four bytes, to its output
//
// SLIPWAY_CLUSTER_SECRET, if it is set, goes with every message, so that what is behind the secret is reached too.
// Ends with 0 once everything was sent and a last question was answered; the last line says of how many messages, how
// many answers were about the secret, and how many were others, by which it is known that somebody took them.
#include <arpa/inet.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <print>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "lib/base/service.h"
#include "lib/wire/bus.h"
#include "tests/support/message_forms.h"

namespace {

using namespace slipway;
using namespace std::chrono_literals;

constexpr auto kPatience = 120s;
constexpr std::uint64_t kFirstQuestion = 1'000'000;  // correlations of the questions that are waited for

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

// A form without and with a correlation, and with some, a little and much that does not belong to it.
std::vector<Message> messages_of(const msg::Body& body) {
  std::vector<Message> messages;
  struct Way {
    std::uint64_t correlation;
    std::size_t frames;
  };
  for (const auto& [correlation, frames] : std::array<Way, 4>{{{0, 0}, {1, 0}, {1, 1}, {7, 3}}}) {
    Message message = message_of(correlation, body);
    if (correlation == 7) message.envelope.deadline_ms = 1;
    for (std::size_t i = 0; i < frames; ++i) message.payload.push_back(Frame::of(std::string(i * 5, 'x')));
    messages.push_back(std::move(message));
  }
  return messages;
}

// What came back. Threads: thread-safe.
class Answers {
 public:
  void note(const msg::Envelope& envelope) {
    const std::lock_guard lock(mutex_);
    const auto* error = std::get_if<msg::Error>(&envelope.body);
    if (error != nullptr && error->message.contains("cluster") && error->message.contains("secret")) {
      ++refused_;
    } else if (!std::holds_alternative<msg::Rehello>(envelope.body) &&
               !std::holds_alternative<msg::Ok>(envelope.body)) {
      ++taken_;
    } else if (envelope.correlation != 0) {
      ++taken_;  // under none it is a knock, or for strangers
    }
    awaited_.erase(envelope.correlation);
    changed_.notify_all();
  }
  // To be called before it is asked.
  void expect(std::uint64_t correlation) {
    const std::lock_guard lock(mutex_);
    awaited_.insert(correlation);
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [this] { return awaited_.empty(); });
  }
  void print(std::size_t sent) {
    const std::lock_guard lock(mutex_);
    std::println("{} messages {} refused {} taken", sent, refused_, taken_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::uint64_t> awaited_;
  std::size_t refused_ = 0;
  std::size_t taken_ = 0;
};

// Each form is answered before the next is sent, so that none is refused because too many wait.
template <std::size_t Count>
int dial(const std::string& address, const std::optional<msg::Hello>& greeting,
         const std::array<msg::Body, Count>& questions) {
  Answers answers;
  Bus bus;  // its thread ends first
  const auto socket =
      bus.connect_dealer(address, [&](const Incoming& incoming) { answers.note(incoming.message.envelope); });
  if (!socket) return std::println(stderr, "{}", socket.error().message), 1;
  std::size_t sent = 0;
  std::uint64_t next_question = kFirstQuestion;
  for (const msg::Body& form : every_form()) {
    for (Message& message : messages_of(form)) {
      if (greeting) (void)bus.send(*socket, message_of(0, *greeting));
      (void)bus.send(*socket, std::move(message));
      ++sent;
    }
    for (const msg::Body& question : questions) {
      answers.expect(++next_question);
      (void)bus.send(*socket, message_of(next_question, question));
    }
    if (!answers.wait()) {
      return std::println(stderr, "no answer after {} messages, the last ones of kind {}", sent, form.index()), 1;
    }
  }
  answers.print(sent);
  return 0;
}

int dial_registry(const std::string& address) {
  // One for each of those that work there: readers, the writer, the pool.
  return dial(address, std::nullopt, std::array<msg::Body, 3>{msg::GetJob{}, msg::CancelJob{}, msg::GetUpload{}});
}

int dial_gateway(const std::string& address) {
  // A gateway listens to those it knows, and some of what comes unmakes the acquaintance.
  const msg::Hello hello{.release = std::string(kDefaultReleaseId),
                         .role = msg::Role::kInferencer,
                         .worker_id = WorkerId("storm"),
                         .host = "here"};
  return dial(address, hello, std::array<msg::Body, 1>{hello});
}

int bind_and_wait() {
  Answers answers;
  std::atomic<SocketId> own{};
  bool begun = false;  // on the bus thread
  std::atomic<std::size_t> sent = 0;
  Bus bus;  // its thread ends first
  answers.expect(kFirstQuestion);
  const auto socket = bus.bind_router("127.0.0.1:0", [&](const Incoming& incoming) {
    const auto say = [&](Message message) { (void)bus.send(own, incoming.peer, std::move(message)); };
    const auto& envelope = incoming.message.envelope;
    if (std::holds_alternative<msg::Hello>(envelope.body)) {
      say(message_of(0, msg::Welcome{.gateway_id = "storm"}));
    } else if (std::holds_alternative<msg::Heartbeat>(envelope.body)) {
      if (!std::exchange(begun, true)) {
        for (const msg::Body& form : every_form()) {
          for (Message& message : messages_of(form)) {
            say(std::move(message));
            ++sent;
          }
        }
        // Neither has such a model, and both say so.
        say(message_of(kFirstQuestion, msg::Infer{}));
      }
      say(message_of(0, msg::Ok{}));
    } else {
      answers.note(envelope);
    }
  });
  if (!socket) return std::println(stderr, "{}", socket.error().message), 1;
  own = *socket;
  std::println("{}", bus.port(*socket));
  std::fflush(stdout);
  if (!answers.wait()) return std::println(stderr, "no word from the worker after {} messages", sent.load()), 1;
  answers.print(sent);
  return 0;
}

int print() {
  for (const msg::Body& form : every_form()) {
    const Frame envelope = encode(message_of(1, form).envelope);
    const std::uint32_t size = htonl(static_cast<std::uint32_t>(envelope.size()));
    std::fwrite(&size, sizeof size, 1, stdout);
    std::fwrite(envelope.bytes().data(), 1, envelope.size(), stdout);
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  slipway::block_stop_signals();
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "registry" && argc == 3) return dial_registry(argv[2]);
  if (mode == "gateway" && argc == 3) return dial_gateway(argv[2]);
  if (mode == "bind" && argc == 2) return bind_and_wait();
  if (mode == "print" && argc == 2) return print();
  std::println(stderr, "usage: message_storm registry HOST:PORT | gateway HOST:PORT | bind | print");
  return 2;
}

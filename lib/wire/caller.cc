#include "lib/wire/caller.h"

#include <algorithm>
#include <future>
#include <optional>
#include <unordered_map>
#include <utility>

namespace slipway {
namespace {

using Clock = std::chrono::steady_clock;

struct Pending {
  msg::Body question;
  std::vector<Frame> payload;
  std::string request_id;
  Caller::Answer answer;
  Clock::time_point deadline;
  Clock::time_point ask_again;
  std::chrono::milliseconds repeat_after;
  bool unread = false;  // the first time, for its protocol
};

}  // namespace

// Everything but `bus` and the flag is used on the bus thread only.
struct Caller::State : std::enable_shared_from_this<Caller::State> {
  State(Bus& owner, std::string shown) : bus(owner), secret(std::move(shown)) {}

  Bus& bus;
  const std::string secret;
  SocketId socket{};
  bool connected = false;  // connect_dealer went well
  bool closed = false;
  std::uint64_t next_correlation = 1;
  std::unordered_map<std::uint64_t, Pending> pending;
  std::string failure;

  Result<void> ask(std::uint64_t correlation, const Pending& question) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(question.deadline - Clock::now()).count();
    return bus.send(socket, {.envelope = {.correlation = correlation,
                                          .deadline_ms = static_cast<std::uint32_t>(std::max<std::int64_t>(left, 1)),
                                          .request_id = question.request_id,
                                          .secret = secret,
                                          .body = question.question},
                             .payload = question.payload});
  }

  void start(Pending question) {
    if (closed || !connected) {
      const Error gone{
          .code = Code::kUnavailable, .message = closed ? "this process is stopping" : failure, .path = {}};
      return answer_later(std::move(question.answer), gone);
    }
    const std::uint64_t correlation = next_correlation++;
    if (auto asked = ask(correlation, question); !asked) {
      return answer_later(std::move(question.answer), std::move(asked).error());
    }
    // Without repeats the bytes need not be kept, once it is known that they can be read.
    if (question.repeat_after.count() == 0 && bus.has_heard(socket)) {
      question.question = msg::Nothing{};
      question.payload.clear();
    }
    pending.emplace(correlation, std::move(question));
  }

  // Not from inside call(): who calls may hold a lock.
  void answer_later(Answer answer, Error error) {
    auto later = [answer, error] { answer(std::unexpected(error)); };
    if (!bus.post(later)) later();
  }

  void on_message(Incoming incoming) {
    const auto found = pending.find(incoming.message.envelope.correlation);
    if (found == pending.end()) return;  // late, or the second answer to a repeated question
    // Once: what it says it speaks does not change while the connection lasts.
    if (incoming.unread && !std::exchange(found->second.unread, true) &&
        !std::holds_alternative<msg::Nothing>(found->second.question) && ask(found->first, found->second)) {
      return;
    }
    Answer answer = std::move(found->second.answer);
    pending.erase(found);
    if (const auto* error = std::get_if<msg::Error>(&incoming.message.envelope.body)) {
      answer(std::unexpected(from_message(*error)));
    } else {
      answer(std::move(incoming.message));
    }
  }

  // What waits to be sent is not lost; of the rest no answer will come.
  void on_lost() {
    const auto waiting = bus.waiting(socket);
    const auto now = Clock::now();
    std::vector<Answer> lost;
    for (auto at = pending.begin(); at != pending.end();) {
      Pending& question = at->second;
      if (std::ranges::binary_search(waiting, at->first)) {
        ++at;
      } else if (question.repeat_after.count() > 0) {
        question.ask_again = now;
        ++at;
      } else {
        lost.push_back(std::move(question.answer));
        at = pending.erase(at);
      }
    }
    for (auto& answer : lost) {
      answer(std::unexpected(
          Error{.code = Code::kUnavailable,
                .message = "the connection was lost before the answer came: whether it was done is not known",
                .path = {},
                .retry_after = std::chrono::seconds(1)}));
    }
  }

  void on_tick(Clock::time_point now) {
    std::vector<Answer> late;
    std::optional<std::vector<std::uint64_t>> waiting;
    for (auto at = pending.begin(); at != pending.end();) {
      Pending& question = at->second;
      if (now >= question.deadline) {
        late.push_back(std::move(question.answer));
        at = pending.erase(at);
        continue;
      }
      if (question.repeat_after.count() > 0 && now >= question.ask_again) {
        question.ask_again = now + question.repeat_after;
        if (!waiting) waiting = bus.waiting(socket);
        // Without room now, perhaps the next time.
        if (!std::ranges::binary_search(*waiting, at->first)) (void)ask(at->first, question);
      }
      ++at;
    }
    for (auto& answer : late) answer(fail(Code::kDeadlineExceeded, "no answer came in time"));
  }

  void close() {
    if (closed) return;
    closed = true;
    auto open = std::exchange(pending, {});
    for (auto& [correlation, question] : open) {
      question.answer(fail(Code::kUnavailable, "this process is stopping"));
    }
    if (connected) bus.close(socket);
  }
};

Caller::Caller(Bus& bus, const std::string& address, std::string secret)
    : state_(std::make_shared<State>(bus, std::move(secret))) {
  const std::weak_ptr<State> weak = state_;
  auto socket = bus.connect_dealer(
      address,
      [weak](Incoming incoming) {
        if (const auto state = weak.lock()) state->on_message(std::move(incoming));
      },
      [weak] {
        if (const auto state = weak.lock()) state->on_lost();
      });
  bus.post([state = state_, socket = std::move(socket)] {
    if (socket) {
      state->socket = *socket;
      state->connected = true;
    } else {
      state->failure = socket.error().message;
    }
  });
  bus.on_tick([weak](Clock::time_point now) {
    if (const auto state = weak.lock()) state->on_tick(now);
  });
  bus.on_stopped([weak] {
    if (const auto state = weak.lock()) state->close();
  });
}

Caller::~Caller() { close(); }

void Caller::close() {
  if (state_->bus.on_bus_thread()) {
    state_->close();
  } else {
    state_->bus.post([state = state_] { state->close(); });
  }
}

void Caller::call(msg::Body question, std::vector<Frame> payload, Options options, Answer answer) {
  const auto now = Clock::now();
  Pending pending{.question = std::move(question),
                  .payload = std::move(payload),
                  .request_id = std::move(options.request_id),
                  .answer = std::move(answer),
                  .deadline = now + options.deadline,
                  .ask_again = now + options.repeat_after,
                  .repeat_after = options.repeat_after};
  if (state_->bus.on_bus_thread()) {
    state_->start(std::move(pending));
    return;
  }
  // std::function wants copies to be possible; a shared pointer gives it one that costs nothing.
  const auto shared = std::make_shared<Pending>(std::move(pending));
  if (!state_->bus.post([state = state_, shared] { state->start(std::move(*shared)); })) {
    shared->answer(fail(Code::kUnavailable, "this process is stopping"));
  }
}

Result<Message> Caller::call_and_wait(msg::Body question, std::vector<Frame> payload, Options options) {
  auto promise = std::make_shared<std::promise<Result<Message>>>();
  auto answer = promise->get_future();
  call(std::move(question), std::move(payload), std::move(options),
       [promise](Result<Message> message) { promise->set_value(std::move(message)); });
  return answer.get();
}

}  // namespace slipway

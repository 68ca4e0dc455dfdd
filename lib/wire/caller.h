// Questions and their answers over one dealer socket: correlation ids, deadlines, and repeats of what may be repeated.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "lib/wire/bus.h"

namespace slipway {

// Life: must not outlive the bus; calls still open at destruction are failed with kUnavailable. Threads: any; answers
// come on the bus thread, exactly one per call.
class Caller {
 public:
  using Answer = std::function<void(Result<Message>)>;

  struct Options {
    std::chrono::milliseconds deadline{10'000};
    // Ask again when this much time passes without an answer, and when the connection is lost, until the deadline; 0:
    // never. Only for questions that may be asked twice: reads, and writes that the registry recognises.
    std::chrono::milliseconds repeat_after{0};
    std::string request_id;
  };

  // `address` as for Bus::connect_dealer. `secret` is the cluster's and is shown with every question; empty: none.
  Caller(Bus& bus, const std::string& address, std::string secret = {});
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  // Errors in the answer: kDeadlineExceeded (none came), kOverloaded (no room for the question) and kTooLarge (over the
  // limits of the wire), both at once, kUnavailable (closed, or not connected; with a time to come again: the
  // connection was lost before the answer came, so whether it was done is not known), and what the other side says.
  void call(msg::Body question, std::vector<Frame> payload, Options options, Answer answer);

  // The same, waiting for the answer; not on the bus thread.
  [[nodiscard]] Result<Message> call_and_wait(msg::Body question, std::vector<Frame> payload, Options options);

  // Answers every open call, and every later one, with kUnavailable. Idempotent.
  void close();

  // The answer as the kind that was expected. Errors: as above; kInternal (another kind came), kUnsupported (one of
  // a later release).
  template <class T>
  [[nodiscard]] static Result<T> as(Result<Message> answer) {
    if (!answer) return std::unexpected(std::move(answer).error());
    if (auto* body = std::get_if<T>(&answer->envelope.body)) return std::move(*body);
    if (std::holds_alternative<msg::Nothing>(answer->envelope.body))
      return fail(Code::kUnsupported, "an answer of a kind that this release does not know");
    return fail(Code::kInternal, "an answer of an unexpected kind");
  }

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace slipway

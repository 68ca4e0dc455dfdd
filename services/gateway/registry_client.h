// The registry as coroutines call it.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <type_traits>

#include "lib/wire/caller.h"
#include "services/gateway/task.h"

namespace slipway::gateway {

// Life: must outlive every call. Threads: any coroutine of the gateway.
class RegistryClient {
 public:
  RegistryClient(Caller& caller, std::chrono::milliseconds deadline) : caller_(caller), deadline_(deadline) {}

  // Asks and waits. `repeatable`: asked again every 2 s until the deadline; for reads, and writes that the registry
  // recognises. Errors: what the registry says; kUnavailable (it does not answer).
  template <class Answer, class Question>
  Task<Result<Answer>> ask(Question question, std::string request_id, bool repeatable = true) {
    auto message = co_await call(msg::Body(std::move(question)), {}, options(std::move(request_id), repeatable));
    co_return Caller::as<Answer>(std::move(message));
  }

  // The same for what may take the registry minutes, such as reading a whole dataset: a deadline of its own, and
  // repeats that only a lost question needs.
  template <class Answer, class Question>
  Task<Result<Answer>> ask_long(Question question, std::string request_id) {
    auto message =
        co_await call(msg::Body(std::move(question)), {},
                      {.deadline = kLongDeadline, .repeat_after = kLongRepeat, .request_id = std::move(request_id)});
    co_return Caller::as<Answer>(std::move(message));
  }

  // Gives every model to `take`, in the order of their names, page by page. Errors: as ask(); some were given then.
  Task<Result<void>> each_model(std::string request_id, std::function<void(Model)> take);

  Task<Result<Message>> call(msg::Body question, std::vector<Frame> payload, Caller::Options options);

  [[nodiscard]] Caller& caller() { return caller_; }
  // What ask() goes by.
  [[nodiscard]] Caller::Options options(std::string request_id, bool repeatable = true) const {
    return {.deadline = deadline_, .repeat_after = repeatable ? kRepeat : kNever, .request_id = std::move(request_id)};
  }

 private:
  static constexpr std::chrono::milliseconds kNever{0};
  static constexpr std::chrono::milliseconds kRepeat{2'000};
  static constexpr std::chrono::milliseconds kLongDeadline{600'000};
  static constexpr std::chrono::milliseconds kLongRepeat{30'000};

  Caller& caller_;
  const std::chrono::milliseconds deadline_;
};

}  // namespace slipway::gateway

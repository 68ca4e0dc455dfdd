// The registry as coroutines call it.
#pragma once

#include <chrono>
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
    auto message = co_await call(msg::Body(std::move(question)), {}, std::move(request_id), repeatable);
    co_return Caller::as<Answer>(std::move(message));
  }

  Task<Result<Message>> call(msg::Body question, std::vector<Frame> payload, std::string request_id, bool repeatable);

  [[nodiscard]] Caller& caller() { return caller_; }

 private:
  Caller& caller_;
  const std::chrono::milliseconds deadline_;
};

}  // namespace slipway::gateway

#include "services/gateway/registry_client.h"

namespace slipway::gateway {

Task<Result<Message>> RegistryClient::call(msg::Body question, std::vector<Frame> payload, Caller::Options options) {
  auto answer =
      co_await await_value<Result<Message>>([this, question = std::move(question), payload = std::move(payload),
                                             options = std::move(options)](auto done) mutable {
        caller_.call(std::move(question), std::move(payload), std::move(options),
                     [done](Result<Message> message) mutable { done(std::move(message)); });
      });
  // To a client of ours the registry is a part of the service: its silence is an outage, not the client's deadline.
  if (!answer && answer.error().code == Code::kDeadlineExceeded) {
    co_return fail(Code::kUnavailable, "the registry does not answer");
  }
  co_return answer;
}

}  // namespace slipway::gateway

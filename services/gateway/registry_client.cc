#include "services/gateway/registry_client.h"

#include "lib/wire/page.h"

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

Task<Result<void>> RegistryClient::each_model(std::string request_id, std::function<void(Model)> take) {
  constexpr std::uint32_t kPage = 500;
  std::string after;
  while (true) {
    auto page = co_await ask<msg::Models>(msg::ListModels{.after = after, .limit = kPage}, request_id);
    if (!page) co_return std::unexpected(std::move(page).error());
    if (page->items.empty()) co_return Result<void>();
    const bool more = may_have_next(page->items, kPage);
    after = page->items.back().name;
    for (Model& model : page->items) take(std::move(model));
    if (!more) co_return Result<void>();
  }
}

}  // namespace slipway::gateway

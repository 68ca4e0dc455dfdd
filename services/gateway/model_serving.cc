#include "services/gateway/model_serving.h"

#include "schema/desired.h"
#include "services/gateway/own_api.h"

namespace slipway::gateway {
namespace {

// What went wrong, by inferencer, and the worst of it as the code. A fleet may be large and have one reason.
std::optional<Error> failure_of(const std::string& model, const std::vector<LoadRounds::Outcome>& outcomes) {
  constexpr std::size_t kMostNamed = 8;
  std::optional<Code> code;
  std::string reasons;
  std::size_t failed = 0;
  for (const auto& outcome : outcomes) {
    if (outcome.loaded) continue;
    const Code came = outcome.loaded.error().code;
    const bool mild = came == Code::kDeadlineExceeded || came == Code::kUnavailable;
    if (!mild) code = Code::kInternal;
    if (!code || (came == Code::kUnavailable && code == Code::kDeadlineExceeded)) code = came;
    if (++failed > kMostNamed) continue;
    reasons += std::format("{}version {} on inferencer {}: {}", reasons.empty() ? "" : "; ", outcome.version.version,
                           outcome.inferencer, outcome.loaded.error().message);
  }
  if (!code) return std::nullopt;
  if (failed > kMostNamed) reasons += std::format("; and {} more", failed - kMostNamed);
  return Error{
      .code = *code,
      .message = std::format("failed to load '{}', {} of {} not loaded: {}", model, failed, outcomes.size(), reasons),
      .path = {}};
}

}  // namespace

std::vector<msg::VersionKey> desired_versions(const Model& model) {
  std::vector<msg::VersionKey> versions;
  for (const std::uint64_t number : desired_numbers(model))
    versions.push_back({.model = model.name, .version = number});
  return versions;
}

Task<Result<Model>> set_serving(Services& services, Call& call, std::string model, bool served) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(services.settings.load_deadline_ms);
  // Said twice it changes nothing, so it may be asked twice.
  auto written = co_await services.registry.ask<msg::Models>(
      msg::SetServing{.model = model, .served = served, .actor = actor_of(call.request)}, call.request.id);
  services.cache.forget(model);
  if (!written) co_return std::unexpected(std::move(written).error());
  if (written->items.size() != 1) co_return fail(Code::kInternal, "the registry answered a model with none");
  Model now = std::move(written->items.front());
  if (!served) co_return now;

  auto versions = desired_versions(now);
  if (versions.empty())
    co_return fail(Code::kNotFound, std::format("failed to load '{}', no version is available", model));
  const auto outcomes = co_await await_value<std::vector<LoadRounds::Outcome>>(
      [&](std::function<void(std::vector<LoadRounds::Outcome>)> done) {
        services.workers.load(std::move(versions), deadline, call.request.id, std::move(done));
      });
  if (outcomes.empty()) {
    co_return fail(Code::kUnavailable,
                   std::format("'{}' is to be served, but no inferencer is connected to this gateway", model));
  }
  if (auto failed = failure_of(model, outcomes)) co_return std::unexpected(std::move(*failed));
  co_return now;
}

}  // namespace slipway::gateway

// /api/v1/jobs/{id}/events: a job's history and then its future as server-sent events.
#include "lib/base/json_text.h"
#include "lib/wire/page.h"
#include "services/gateway/documents.h"
#include "services/gateway/metrics.h"
#include "services/gateway/own_api.h"
#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kHeartbeatEvery = std::chrono::seconds(15);         // under the idle time-outs of proxies
constexpr auto kReadAgainAfter = std::chrono::milliseconds(3000);  // should a Changed have been missed
constexpr std::uint32_t kPage = 100;

bool final_state(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed || state == JobState::kCancelled;
}

std::string sse(const JobEvent& event) {
  return std::format("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.kind, slipway::json_text(to_json(event)));
}

struct Gauge {
  Gauge() { metrics().event_streams.Increment(); }
  ~Gauge() { metrics().event_streams.Decrement(); }
  Gauge(const Gauge&) = delete;
  Gauge& operator=(const Gauge&) = delete;
};

// Writes events after `after` until the final one, the client's end or the gateway's. The call outlives it.
Task<void> stream_events(Services& services, Call& call, BodyWriter& writer, std::uint64_t after) {
  const Gauge open;
  const JobId job(call.param("id"));
  const auto executor = co_await asio::this_coro::executor;
  const auto waiter = std::make_shared<EventHub::Waiter>(services.events, executor, job.text());
  const auto gone = std::make_shared<bool>(false);
  if (call.client != nullptr) {
    call.client->watch([gone, weak = std::weak_ptr(waiter)] {
      *gone = true;
      if (const auto alive = weak.lock()) alive->wake();
    });
  }
  auto written = Clock::now();
  while (!*gone && !services.events.closed()) {
    auto page = co_await services.registry.ask<msg::JobEvents>(
        msg::ListJobEvents{.job = job, .after = after, .limit = kPage}, call.request.id);
    if (!page && page.error().code != Code::kUnavailable && page.error().code != Code::kOverloaded) co_return;
    std::string text;
    bool ended = false;
    if (page) {
      for (const auto& event : page->items) {
        text += sse(event);
        after = event.id;
        ended = ended || (event.kind == "state" && final_state(event.state));
      }
    }
    if (text.empty() && Clock::now() - written >= kHeartbeatEvery) text = ":\n\n";
    if (!text.empty()) {
      if (!co_await writer.write(text)) co_return;
      written = Clock::now();
    }
    if (page && may_have_next(page->items, kPage)) continue;
    if (ended) break;
    if (page && text.empty()) {
      // Resumed behind the final event: nothing more will come.
      auto state = co_await services.registry.ask<msg::Jobs>(msg::GetJob{.id = job}, call.request.id);
      if (state && state->items.size() == 1 && final_state(state->items.front().state)) {
        auto rest = co_await services.registry.ask<msg::JobEvents>(
            msg::ListJobEvents{.job = job, .after = after, .limit = 1}, call.request.id);
        if (rest && rest->items.empty()) break;
        if (rest) continue;
      }
    }
    co_await waiter->wait(kReadAgainAfter);
  }
  if (call.client != nullptr) call.client->unwatch();
}

Task<Response> get_events(Services& services, Call& call) {
  const auto refuse = [&](const Error& error) { return error_response(error, Dialect::kOwn, call.request); };
  auto after = call.request.query_number("after");
  if (!after) co_return refuse(after.error());
  std::uint64_t from = after->value_or(0);
  if (const auto last = call.request.header("Last-Event-ID"); !last.empty()) {
    auto parsed = version_choice(last);
    const auto* number = parsed ? std::get_if<std::uint64_t>(&*parsed) : nullptr;
    if (number == nullptr && last != "0") {
      co_return refuse({.code = Code::kInvalidArgument,
                        .message = std::format("Last-Event-ID '{}' is not an event's number", last),
                        .path = {}});
    }
    from = number == nullptr ? 0 : *number;
  }
  auto job = co_await services.registry.ask<msg::Jobs>(msg::GetJob{.id = JobId(call.param("id"))}, call.request.id);
  if (!job) co_return refuse(job.error());
  Response response;
  response.content_type = "text/event-stream";
  response.headers.emplace_back("Cache-Control", "no-store");
  response.headers.emplace_back("X-Accel-Buffering", "no");
  response.stream = [&services, &call, from](BodyWriter& writer) {
    return stream_events(services, call, writer, from);
  };
  co_return response;
}

}  // namespace

void add_job_event_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "GET", "/api/v1/jobs/{id}/events", BodyPolicy::kNone, false, get_events, {"after"});
}

}  // namespace slipway::gateway

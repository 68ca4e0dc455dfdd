// /api/v1/doctor: what somebody should look at, in one document.
#include "lib/base/json_text.h"
#include "lib/base/release.h"
#include "services/gateway/documents.h"
#include "services/gateway/own_api.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

constexpr std::uint32_t kPage = 1000;
constexpr std::size_t kMostQuarantines = 10'000;
constexpr std::chrono::milliseconds kDeadline{3'000};  // whoever asks suspects that something does not answer
constexpr std::chrono::milliseconds kRepeat{1'000};

template <class Answer, class Question>
Task<Result<Answer>> ask(Services& services, const Call& call, Question question) {
  Caller::Options options{.deadline = kDeadline, .repeat_after = kRepeat, .request_id = call.request.id};
  co_return Caller::as<Answer>(co_await services.registry.call(std::move(question), {}, std::move(options)));
}

Task<Result<std::vector<Quarantine>>> all_quarantines(Services& services, const Call& call) {
  std::vector<Quarantine> all;
  msg::ListQuarantines question{.after = {}, .limit = kPage};
  while (true) {
    auto page = co_await ask<msg::Quarantines>(services, call, question);
    if (!page) co_return std::unexpected(page.error());
    all.insert(all.end(), page->items.begin(), page->items.end());
    if (page->items.empty() || !may_have_next(page->items, kPage) || all.size() >= kMostQuarantines) co_return all;
    question.after = all.back().digest;
  }
}

json::object to_json(const msg::UnreadableRecord& record) {
  return {{"family", record.family}, {"key", record.key}, {"size_bytes", record.size_bytes}, {"reason", record.reason}};
}

Task<Response> get_doctor(Services& services, Call& call) {
  json::array findings;
  const auto find = [&](std::string_view code, std::string message) {
    findings.push_back({{"code", code}, {"message", std::move(message)}});
  };
  const int inferencers = services.workers.inferencers();
  const int trainers = services.workers.trainers();
  const std::string not_ready = services.not_ready ? services.not_ready() : std::string();
  if (inferencers == 0) {
    find("no_inferencer", "no inferencer is connected to this gateway: nothing can be predicted");
  } else if (!not_ready.empty()) {
    find("gateway_not_ready", std::format("the gateway is not ready: {}", not_ready));
  }
  if (trainers == 0) find("no_trainer", "no trainer is connected to this gateway: jobs wait");

  auto unreadable = co_await ask<msg::Unreadable>(services, call, msg::ListUnreadable{.limit = kPage});
  auto quarantined = unreadable ? co_await all_quarantines(services, call) : std::unexpected(unreadable.error());
  const bool reachable = quarantined || quarantined.error().code != Code::kUnavailable;
  json::value registry_error = nullptr;
  if (!quarantined) {
    registry_error = json::value(quarantined.error().message);
    find(reachable ? "registry_failed" : "registry_unreachable",
         std::format("the registry was asked in vain: {}", quarantined.error().message));
  }
  if (unreadable && unreadable->total > 0) {
    find("unreadable_records",
         std::format("{} records cannot be read by this release; they are set aside, unchanged", unreadable->total));
  }
  if (quarantined) {
    for (const auto& file : *quarantined) {
      find("quarantined",
           std::format("version {} of model '{}' is not loaded: {}", file.version, file.model, file.reason));
    }
  }
  json::value records = nullptr;
  if (unreadable) {
    json::array items;
    for (const auto& record : unreadable->items) items.push_back(to_json(record));
    records = {{"total", unreadable->total}, {"items", std::move(items)}};
  }
  json::value files = nullptr;
  if (quarantined) {
    json::array items;
    for (const auto& file : *quarantined) items.push_back(gateway::to_json(file));
    files = std::move(items);
  }
  co_return json_response(200, slipway::json_text(json::object{
                                   {"release", kRelease},
                                   {"findings", std::move(findings)},
                                   {"registry", {{"reachable", reachable}, {"error", std::move(registry_error)}}},
                                   {"inferencers", inferencers},
                                   {"trainers", trainers},
                                   {"unreadable", std::move(records)},
                                   {"quarantined", std::move(files)}}));
}

}  // namespace

void add_doctor_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "GET", "/api/v1/doctor", BodyPolicy::kNone, false, get_doctor);
}

}  // namespace slipway::gateway

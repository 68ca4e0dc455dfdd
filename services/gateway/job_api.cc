// /api/v1/jobs, but for the event streams.
#include "lib/base/json_text.h"
#include "lib/base/random_id.h"
#include "lib/keras/job_spec.h"
#include "services/gateway/documents.h"
#include "services/gateway/own_api.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

Response one_job(Services& services, Result<msg::Jobs> answer, const Call& call, int status) {
  if (!answer) return refuse(answer.error(), call);
  if (answer->items.size() != 1)
    return refuse({.code = Code::kInternal, .message = "the registry answered a job with none", .path = {}}, call);
  const Job& job = answer->items.front();
  // Whoever sees a version here may ask for it at once.
  services.cache.note_version(job.model, job.version);
  Response response = json_response(status, slipway::json_text(to_json(job, true)));
  if (status == 202) response.headers.emplace_back("Location", "/api/v1/jobs/" + percent_encode(job.id.text()));
  return response;
}

Task<Response> post_job(Services& services, Call& call) {
  const auto key = idempotency_key_of(call.request);
  if (!key) co_return refuse(key.error(), call);
  auto spec = keras::parse_job(call.body);
  if (!spec) co_return refuse(spec.error(), call);
  auto found = co_await services.registry.ask<msg::Datasets>(
      msg::GetDataset{.name = spec->data.dataset, .version = spec->data.version}, call.request.id);
  if (!found) {
    if (found.error().code == Code::kNotFound) found.error().path = "$.dataset";
    co_return refuse(found.error(), call);
  }
  if (found->items.size() != 1)
    co_return refuse({.code = Code::kInternal, .message = "the registry answered a dataset with none", .path = {}},
                     call);
  const Dataset& dataset = found->items.front();
  if (auto fits = keras::check_against(*spec, dataset); !fits) co_return refuse(fits.error(), call);

  Job job;
  job.document = call.body;
  job.model = spec->publish_model;
  job.dataset = dataset.name;
  job.dataset_version = dataset.version;
  // Without a seed one is drawn now and kept with the job, so that it can be run again; 53 bits survive every JSON
  // reader.
  job.seed = spec->seed_given ? spec->seed : random_u64() >> 11;
  job.request_id = call.request.id;
  job.actor = actor_of(call.request);
  auto created = co_await services.registry.ask<msg::Jobs>(
      msg::CreateJob{.job = std::move(job), .idempotency_key = key->empty() ? random_hex() : *key}, call.request.id);
  co_return one_job(services, std::move(created), call, 202);
}

Task<Response> get_job(Services& services, Call& call) {
  auto answer = co_await services.registry.ask<msg::Jobs>(msg::GetJob{.id = JobId(call.param("id"))}, call.request.id);
  co_return one_job(services, std::move(answer), call, 200);
}

Task<Response> cancel_job(Services& services, Call& call) {
  auto answer =
      co_await services.registry.ask<msg::Jobs>(msg::CancelJob{.id = JobId(call.param("id"))}, call.request.id);
  co_return one_job(services, std::move(answer), call, 200);
}

Task<Response> list_jobs(Services& services, Call& call) {
  auto wanted = page_request<std::string>(call.request, "before");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::Jobs>(
      msg::ListJobs{.before = JobId(wanted->cursor), .limit = wanted->limit}, call.request.id);
  if (!page) co_return refuse(page.error(), call);
  co_return page_response(
      page->items, wanted->limit, [](const Job& job) { return job.id.text(); },
      [](const Job& job) { return to_json(job, false); });
}

}  // namespace

void add_job_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "POST", "/api/v1/jobs", BodyPolicy::kMemory, true, post_job);
  add_own_route(routes, services, "GET", "/api/v1/jobs", BodyPolicy::kNone, false, list_jobs, {"limit", "before"});
  add_own_route(routes, services, "GET", "/api/v1/jobs/{id}", BodyPolicy::kNone, false, get_job);
  add_own_route(routes, services, "POST", "/api/v1/jobs/{id}/cancel", BodyPolicy::kNone, true, cancel_job);
}

}  // namespace slipway::gateway

#include "services/gateway/own_api.h"

#include "lib/base/release.h"
#include "services/gateway/oip_api.h"
#include "services/gateway/openapi_document.h"
#include "services/gateway/plain_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/repository_api.h"
#include "services/gateway/tfs_api.h"

namespace slipway::gateway {

std::string actor_of(const Request& request) {
  const std::string_view given = request.header("X-Slipway-Actor");
  return clean_request_id(given) ? std::string(given) : "anonymous";
}

Result<std::string> idempotency_key_of(const Request& request) {
  constexpr std::size_t kMost = 255;
  const std::string_view key = request.header("Idempotency-Key");
  if (key.size() <= kMost) return std::string(key);
  return fail(Code::kInvalidArgument,
              std::format("an Idempotency-Key of {} characters came, it has at most {}", key.size(), kMost));
}

Response refuse(const Error& error, const Call& call) { return error_response(error, Dialect::kOwn, call.request); }

template <class Cursor>
Result<PageRequest<Cursor>> page_request(const Request& request, std::string_view name) {
  auto limit = request.query_number("limit");
  if (!limit) return std::unexpected(limit.error());
  const std::uint64_t wanted = limit->value_or(100);
  if (wanted < 1 || wanted > 1000)
    return fail(Code::kInvalidArgument, std::format("query parameter limit: {} is not from 1 to 1000", wanted));
  PageRequest<Cursor> page{.limit = static_cast<std::uint32_t>(wanted)};
  if constexpr (std::is_same_v<Cursor, std::uint64_t>) {
    auto cursor = request.query_number(name);
    if (!cursor) return std::unexpected(cursor.error());
    page.cursor = cursor->value_or(0);
  } else {
    auto cursor = request.query_value(name);
    if (!cursor) return std::unexpected(cursor.error());
    page.cursor = std::move(*cursor).value_or("");
  }
  return page;
}
template Result<PageRequest<std::string>> page_request(const Request&, std::string_view);
template Result<PageRequest<std::uint64_t>> page_request(const Request&, std::string_view);

namespace {

// For whoever opens the gateway's address to see what is there.
Task<Response> answer_root(Call& call) {
  static constexpr std::pair<std::string_view, std::string_view> kWays[] = {
      {"/openapi.json", "describes every call (OpenAPI 3.1)"},
      {"/api/v1/models", "models, their versions and aliases; also /api/v1/jobs and /api/v1/datasets"},
      {"/v1/models", "predictions as TensorFlow Serving takes them: POST /v1/models/MODEL:predict"},
      {"/v2", "predictions as the Open Inference Protocol has them: POST /v2/models/MODEL/infer"},
      {"/predict", "predictions in short: POST {\"model\": ..., \"input\": [...]}"},
  };
  static constexpr std::string_view kTitle = "Slipway trains models and serves their predictions.";
  static constexpr std::string_view kMore =
      "`slipway --help` has the command line; README.md and docs/ of the source tell the rest.";
  Response response;
  if (call.request.header("Accept").contains("text/html")) {
    response.content_type = "text/html; charset=utf-8";
    response.body = std::format("<!doctype html><title>Slipway {}</title><h1>Slipway {}</h1><p>{}</p><ul>", kRelease,
                                kRelease, kTitle);
    for (const auto& [path, what] : kWays)
      response.body += std::format(R"(<li><a href="{}">{}</a> {}</li>)", path, path, what);
    response.body += std::format("</ul><p>{}</p>\n", kMore);
  } else {
    response.content_type = "text/plain; charset=utf-8";
    response.body = std::format("Slipway {}\n{}\n\n", kRelease, kTitle);
    for (const auto& [path, what] : kWays) response.body += std::format("  {:<16}{}\n", path, what);
    response.body += std::format("\n{}\n", kMore);
  }
  co_return response;
}

Task<Response> refuse_query(Error error, const Call& call) { co_return refuse(error, call); }

}  // namespace

void add_own_route(RouteTable& routes, Services& services, std::string method, std::string pattern, BodyPolicy body,
                   bool changes, Task<Response> (*handler)(Services&, Call&), std::vector<std::string_view> query) {
  routes.add({.method = std::move(method),
              .pattern = std::move(pattern),
              .dialect = Dialect::kOwn,
              .body = body,
              .changes = changes,
              .handler = [&services, handler, query = std::move(query)](Call& call) {
                auto known = call.request.check_query(query);
                return known ? handler(services, call) : refuse_query(std::move(known).error(), call);
              }});
}

void add_openapi_routes(RouteTable& routes) {
  routes.add(
      {.method = "GET",
       .pattern = "/openapi.json",
       .dialect = Dialect::kOwn,
       .body = BodyPolicy::kNone,
       .changes = false,
       .handler = [](Call&) -> Task<Response> { co_return json_response(200, std::string(openapi_document())); }});
}

void add_root_route(RouteTable& routes) {
  routes.add({.method = "GET",
              .pattern = "/",
              .dialect = Dialect::kOwn,
              .body = BodyPolicy::kNone,
              .changes = false,
              .handler = [](Call& call) { return answer_root(call); }});
}

void add_all_routes(RouteTable& routes, Services& services) {
  add_root_route(routes);
  add_plain_routes(routes, services);
  add_tfs_routes(routes, services);
  add_oip_routes(routes, services);
  add_repository_routes(routes, services);
  add_dataset_routes(routes, services);
  add_job_routes(routes, services);
  add_job_event_routes(routes, services);
  add_model_routes(routes, services);
  add_artifact_routes(routes, services);
  add_version_upload_routes(routes, services);
  add_doctor_routes(routes, services);
  add_backup_routes(routes, services);
  add_openapi_routes(routes);
}

}  // namespace slipway::gateway

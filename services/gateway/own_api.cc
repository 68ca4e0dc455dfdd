#include "services/gateway/own_api.h"

#include "services/gateway/oip_api.h"
#include "services/gateway/openapi_document.h"
#include "services/gateway/plain_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/tfs_api.h"

namespace slipway::gateway {

Result<std::uint32_t> page_limit(const Request& request) {
  auto limit = request.query_number("limit");
  if (!limit) return std::unexpected(limit.error());
  const std::uint64_t wanted = limit->value_or(100);
  if (wanted < 1 || wanted > 1000)
    return fail(Code::kInvalidArgument, std::format("query parameter limit: {} is not from 1 to 1000", wanted));
  return static_cast<std::uint32_t>(wanted);
}

namespace {

Task<Response> refuse_query(Error error, const Call& call) {
  co_return error_response(error, Dialect::kOwn, call.request);
}

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

void add_all_routes(RouteTable& routes, Services& services) {
  add_plain_routes(routes, services);
  add_tfs_routes(routes, services);
  add_oip_routes(routes, services);
  add_dataset_routes(routes, services);
  add_job_routes(routes, services);
  add_job_event_routes(routes, services);
  add_model_routes(routes, services);
  add_artifact_routes(routes, services);
  add_version_upload_routes(routes, services);
  add_openapi_routes(routes);
}

}  // namespace slipway::gateway

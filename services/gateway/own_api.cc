#include "services/gateway/own_api.h"

#include "services/gateway/oip_api.h"
#include "services/gateway/openapi_document.h"
#include "services/gateway/plain_api.h"
#include "services/gateway/problem.h"
#include "services/gateway/tfs_api.h"

namespace slipway::gateway {

std::string actor_of(const Request& request) {
  const std::string_view given = request.header("X-Slipway-Actor");
  return clean_request_id(given) ? std::string(given) : "anonymous";
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
  add_doctor_routes(routes, services);
  add_openapi_routes(routes);
}

}  // namespace slipway::gateway

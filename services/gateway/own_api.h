// Slipway's own API, /api/v1. One function a noun; openapi.json describes them all.
#pragma once

#include "lib/wire/page.h"
#include "services/gateway/documents.h"
#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

void add_dataset_routes(RouteTable& routes, Services& services);
void add_job_routes(RouteTable& routes, Services& services);
void add_job_event_routes(RouteTable& routes, Services& services);
void add_model_routes(RouteTable& routes, Services& services);
void add_artifact_routes(RouteTable& routes, Services& services);
void add_backup_routes(RouteTable& routes, Services& services);
void add_version_upload_routes(RouteTable& routes, Services& services);
void add_doctor_routes(RouteTable& routes, Services& services);
void add_openapi_routes(RouteTable& routes);
void add_root_route(RouteTable& routes);

// Every route of the gateway.
void add_all_routes(RouteTable& routes, Services& services);

// Who asks, for the audit: X-Slipway-Actor, or "anonymous". Authentication is in front of the gateway for now.
[[nodiscard]] std::string actor_of(const Request& request);

// The Idempotency-Key that a repeated request is known by; empty: none. Errors: kInvalidArgument (over 255 characters).
[[nodiscard]] Result<std::string> idempotency_key_of(const Request& request);

// An answer that is not what was asked for: how the own dialect says it.
[[nodiscard]] Response refuse(const Error& error, const Call& call);

// Which page of a listing is wanted. `cursor` is of the last item of the page before; a value of no item (empty, 0)
// when it is the first page.
template <class Cursor>
struct PageRequest {
  std::uint32_t limit = 100;  // 1 to 1000
  Cursor cursor{};
};

// Reads it from the query's `limit` and `name`. Errors: kInvalidArgument. For cursors that are texts and numbers.
template <class Cursor>
[[nodiscard]] Result<PageRequest<Cursor>> page_request(const Request& request, std::string_view name);

// One page of a listing as {"items", "next"}: `describe` makes an item of a record, `cursor` what the next page is
// asked for with, of the last one.
template <class Record, class Cursor, class Describe>
[[nodiscard]] Response page_response(const std::vector<Record>& page, std::uint32_t limit, Cursor cursor,
                                     Describe describe) {
  boost::json::value next = nullptr;
  if (may_have_next(page, limit)) next = boost::json::value(cursor(page.back()));
  boost::json::array items;
  for (const auto& record : page) items.push_back(describe(record));
  return json_response(200, list_json(std::move(items), std::move(next)));
}

// Adds a route of the own dialect. A query parameter other than those of `query` is refused.
void add_own_route(RouteTable& routes, Services& services, std::string method, std::string pattern, BodyPolicy body,
                   bool changes, Task<Response> (*handler)(Services&, Call&), std::vector<std::string_view> query = {});

}  // namespace slipway::gateway

// Slipway's own API, /api/v1. One function a noun; openapi.json describes them all.
#pragma once

#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

void add_dataset_routes(RouteTable& routes, Services& services);
void add_job_routes(RouteTable& routes, Services& services);
void add_job_event_routes(RouteTable& routes, Services& services);
void add_model_routes(RouteTable& routes, Services& services);
void add_artifact_routes(RouteTable& routes, Services& services);
void add_version_upload_routes(RouteTable& routes, Services& services);
void add_openapi_routes(RouteTable& routes);

// Every route of the gateway.
void add_all_routes(RouteTable& routes, Services& services);

// `limit` of a listing: 1 to 1000, 100 when absent. Errors: kInvalidArgument.
[[nodiscard]] Result<std::uint32_t> page_limit(const Request& request);

// Adds a route of the own dialect.
void add_own_route(RouteTable& routes, Services& services, std::string method, std::string pattern, BodyPolicy body,
                   bool changes, Task<Response> (*handler)(Services&, Call&));

}  // namespace slipway::gateway

// Triton's model repository extension of the Open Inference Protocol: /v2/repository.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

// Of the body of an index request: whether only what is ready is wanted. Errors: kInvalidArgument.
[[nodiscard]] Result<bool> read_index_request(std::string_view body);

// The body of a load or an unload: nothing, or an object with "parameters". `unload_dependents` is taken where it may
// stand (no model depends on another); what would change the model is refused. Errors: kInvalidArgument, kUnsupported.
[[nodiscard]] Result<void> check_load_request(std::string_view body);
[[nodiscard]] Result<void> check_unload_request(std::string_view body);

// The index: of each model the versions that inferencers keep in memory, READY when one of them has it (others load it
// when asked), LOADING when none has yet, UNAVAILABLE when there is none or the model is unloaded, with the reason.
[[nodiscard]] std::string write_index(const std::vector<Model>& models, const WorkerHub::Fleet& fleet, bool only_ready);

void add_repository_routes(RouteTable& routes, Services& services);

}  // namespace slipway::gateway

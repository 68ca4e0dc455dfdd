// TensorFlow Serving's REST dialect, with the keys that KServe's v1 readers look for beside it.
#pragma once

#include "services/gateway/json_tensor.h"
#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

void add_tfs_routes(RouteTable& routes, Services& services);

// A predict body, read against a version's signature.
struct TfsRequest {
  std::vector<Tensor> inputs;  // in the signature's order
  bool rows = true;            // "instances", else "inputs"
};
// Errors: kInvalidArgument, kTooLarge.
[[nodiscard]] Result<TfsRequest> read_tfs_request(std::string_view body, const Version& version, bool nonfinite = false,
                                                  std::size_t max_tensor_bytes = kMaxTensorBytes);

// The answer's body. Errors: kInternal (row format, but an output that is not by rows).
[[nodiscard]] Result<std::string> write_tfs_answer(const std::vector<Tensor>& outputs, bool rows);

}  // namespace slipway::gateway

// The Open Inference Protocol (v2), JSON form, with the bodies that KServe's client reads.
#pragma once

#include "services/gateway/json_tensor.h"
#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

void add_oip_routes(RouteTable& routes, Services& services);

// An infer body, read against a version's signature.
struct OipRequest {
  std::string id;
  std::vector<Tensor> inputs;        // in the signature's order
  std::vector<std::string> outputs;  // wanted; empty: all
};
// Errors: kInvalidArgument, kTooLarge, kUnsupported (binary data, shared memory, classification).
[[nodiscard]] Result<OipRequest> read_oip_request(std::string_view body, const Version& version, bool nonfinite = false,
                                                  std::size_t max_tensor_bytes = kMaxTensorBytes);

[[nodiscard]] std::string write_oip_answer(const Version& version, const OipRequest& request,
                                           const std::vector<Tensor>& outputs);

}  // namespace slipway::gateway

// One prediction: inputs checked against the signature, sent to an inferencer, outputs checked. Shared by all dialects.
#pragma once

#include <string>
#include <vector>

#include "services/gateway/http_message.h"
#include "services/gateway/json_tensor.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

// "3" is version 3, anything else an alias, nothing the latest. Errors: kInvalidArgument (a number that is no version).
[[nodiscard]] Result<VersionChoice> version_choice(std::string_view text);

// Whether `inputs` are what the signature wants, in its order; each batch the same, 1 row at least.
// Errors: kInvalidArgument, naming the input, what came and what was wanted.
[[nodiscard]] Result<void> check_inputs(const Version& version, const std::vector<Tensor>& inputs);

// The signature's input called `name`. Errors: kInvalidArgument (none; lists those that there are).
[[nodiscard]] Result<std::size_t> input_index(const Version& version, std::string_view name);

// Runs it. A client that hangs up cancels; the X-Request-Timeout-Ms header may shorten the deadline.
// Errors: as check_inputs(); kOverloaded, kUnavailable, kDeadlineExceeded; what the inferencer says.
Task<Result<std::vector<Tensor>>> predict(Services& services, Call& call, VersionRef version,
                                          std::vector<Tensor> inputs);

}  // namespace slipway::gateway

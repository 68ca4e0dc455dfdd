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

// One example given as `given`, in the signature's `row` with its free dimensions, if it has any, as `given` has them:
// an example may come flat, and without or with trailing axes of size 1. nullopt: it does not fit.
[[nodiscard]] std::optional<Shape> as_row(const Shape& given, const Shape& row);

// The same for every row of batched inputs; what does not fit stays as it came, for check_inputs to refuse.
void fit_rows(const Version& version, std::vector<Tensor>& inputs);

// Whether `inputs` are what the signature wants, in its order; each batch the same, 1 row at least.
// Errors: kInvalidArgument, naming the input, what came and what was wanted; kUnsupported (a dtype that this release
// does not know).
[[nodiscard]] Result<void> check_inputs(const Version& version, const std::vector<Tensor>& inputs);

// Whether `outputs` are what the signature says, and can be printed in `max_printed_bytes` in all; they get its names.
// Errors: kInternal (another number of them, dtype, rank or fixed dimension), kTooLarge.
[[nodiscard]] Result<void> check_outputs(const Version& version, std::vector<Tensor>& outputs,
                                         std::uint64_t max_printed_bytes);

// The signature's input called `name`. Errors: kInvalidArgument (none; lists those that there are).
[[nodiscard]] Result<std::size_t> input_index(const Version& version, std::string_view name);

// Runs it; the call's body is let go of. A client that hangs up cancels; the X-Request-Timeout-Ms header may shorten
// the deadline. Errors: as check_inputs() and check_outputs(); kTooLarge (over --max-tensor-bytes), kOverloaded,
// kUnavailable, kDeadlineExceeded; what the inferencer says.
Task<Result<std::vector<Tensor>>> predict(Services& services, Call& call, VersionRef version,
                                          std::vector<Tensor> inputs);

}  // namespace slipway::gateway

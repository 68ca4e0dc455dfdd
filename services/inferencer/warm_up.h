// What a version is run with before it counts as ready: the inspection of an upload tries the same, in the same order.
#pragma once

#include <cstdint>

#include "lib/base/error.h"
#include "schema/records.h"
#include "services/inferencer/torch_model.h"

namespace slipway::inferencer {

// Runs of zeros, twice each at one row, half a batch and a full one: the first run of a shape compiles, the second
// shows that it has. A version whose inputs are free in more than the rows has no shape to be warmed up with.
// Errors: TorchModel::warm_up's.
[[nodiscard]] Result<void> warm_up(const TorchModel& model, const Signature& signature, std::int64_t max_batch_rows);

}  // namespace slipway::inferencer

// The optimizer of a compile section.
#pragma once

#include "lib/keras/job_spec.h"
#include "lib/keras/json_cursor.h"

namespace slipway::keras {

// A name or a serialised optimizer. Reports kInvalidArgument, kUnsupported (others, schedules, averaging, ...).
[[nodiscard]] Optimizer read_optimizer(const Cursor& cursor);

}  // namespace slipway::keras

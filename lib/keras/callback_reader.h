// The callbacks of a job document.
#pragma once

#include <vector>

#include "lib/keras/job_spec.h"
#include "lib/keras/json_cursor.h"

namespace slipway::keras {

// A list of serialised callbacks. `metrics` and `has_validation` say which names they may monitor.
// Reports kInvalidArgument (also: a monitor that will never be logged), kUnsupported (other callbacks).
[[nodiscard]] std::vector<Callback> read_callbacks(const Cursor& cursor, const std::vector<MetricSpec>& metrics,
                                                   bool has_validation);

}  // namespace slipway::keras

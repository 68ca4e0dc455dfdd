// The loss and the metrics of a compile section, and whether they fit the model's output.
#pragma once

#include <vector>

#include "lib/keras/job_spec.h"
#include "lib/keras/json_cursor.h"

namespace slipway::keras {

// Every data set has one target value a row, so the loss decides what the output must be:
// sparse and categorical cross-entropy [classes >= 2], all others [1].
// Reports kInvalidArgument (also: probabilities wanted where there are logits, and the reverse), kUnsupported.
[[nodiscard]] Loss read_loss(const Cursor& cursor, const Architecture& architecture);

// Nested lists are taken as one. "accuracy" is resolved by the output and the loss.
[[nodiscard]] std::vector<MetricSpec> read_metrics(const Cursor& cursor, const Architecture& architecture,
                                                   const Loss& loss);

// Whether a higher value is better.
[[nodiscard]] bool higher_is_better(MetricKind kind);

}  // namespace slipway::keras

// How weights begin, and the penalties on them.
#pragma once

#include <optional>

#include "lib/keras/job_spec.h"
#include "lib/keras/json_cursor.h"

namespace slipway::keras {

[[nodiscard]] Initializer zeros();
[[nodiscard]] Initializer ones();
[[nodiscard]] Initializer glorot_uniform();

// `fallback` when absent. Reports kInvalidArgument, kUnsupported (Orthogonal, Identity, ...).
[[nodiscard]] Initializer read_initializer(const std::optional<Cursor>& cursor, const Initializer& fallback);

// None when absent. Reports kInvalidArgument, kUnsupported (OrthogonalRegularizer, ...).
[[nodiscard]] Regularizer read_regularizer(const std::optional<Cursor>& cursor);

}  // namespace slipway::keras

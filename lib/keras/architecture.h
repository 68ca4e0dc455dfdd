// The Sequential document: its envelopes through the generations of Keras, and the input's shape.
#pragma once

#include "lib/keras/job_spec.h"
#include "lib/keras/json_cursor.h"

namespace slipway::keras {

struct ModelDocument {
  Architecture architecture;
  std::optional<Cursor> compile_config;  // Keras 3 keeps it with the model; nullopt: absent or empty
};

// Reports kInvalidArgument, kUnsupported; see parse_job.
[[nodiscard]] ModelDocument read_model(const Cursor& cursor);

}  // namespace slipway::keras

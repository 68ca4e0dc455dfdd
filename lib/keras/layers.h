// One layer of a Sequential model: its settings, and the shape it makes of its input.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/keras/job_spec.h"
#include "lib/keras/keras_object.h"

namespace slipway::keras {

inline constexpr std::int64_t kMaxElements = std::int64_t{1} << 31;  // of one activation, and of all weights together

// Reads `object` as the layer that follows a value of shape `input` (no batch, channels last, at least one dimension).
// Reports kInvalidArgument (settings, a shape it cannot take), kUnsupported (another layer or setting).
[[nodiscard]] Layer read_layer(const KerasObject& object, const std::vector<std::int64_t>& input, int generation);

// What "activation" says; linear when absent. Reports as above.
[[nodiscard]] Activation read_activation(const std::optional<Cursor>& cursor);

// Refuses another precision than float32 under `key`.
void require_float32(ObjectReader& reader, std::string_view key);

// The shape at `cursor`; with `batched` its first dimension is the batch and is left out.
// Reports kInvalidArgument (not dimensions), kUnsupported (a dimension that is free).
[[nodiscard]] std::vector<std::int64_t> read_shape(const Cursor& cursor, bool batched);

}  // namespace slipway::keras

// How many numbers a model holds, as Keras' summary counts them.
#pragma once

#include <cstdint>

#include "lib/keras/job_spec.h"

namespace slipway::keras {

struct ParameterCount {
  std::int64_t trainable = 0;
  std::int64_t fixed = 0;  // moving statistics, normalisation numbers, and all of a layer that is not trainable
  bool operator==(const ParameterCount&) const = default;
};

// Of one layer with its shapes filled in. Numbers past 2^62 are given as 2^62.
[[nodiscard]] ParameterCount parameters_of(const Layer& layer);
// Of the whole model, likewise.
[[nodiscard]] ParameterCount parameters_of(const Architecture& architecture);
// All numbers of the model, trainable or not.
[[nodiscard]] std::int64_t parameter_count(const Architecture& architecture);

}  // namespace slipway::keras

#include "lib/keras/parameters.h"

#include <algorithm>

namespace slipway::keras {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;

std::int64_t times(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  return __builtin_mul_overflow(a, b, &out) ? kMost : std::min(out, kMost);
}
std::int64_t plus(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  return __builtin_add_overflow(a, b, &out) ? kMost : std::min(out, kMost);
}

// Of each kind, as if trainable; `channels` is the last axis of the input.
ParameterCount count(const Dense& dense, std::int64_t channels) {
  return {.trainable = plus(times(channels, dense.units), dense.use_bias ? dense.units : 0), .fixed = 0};
}
ParameterCount count(const Conv2D& conv, std::int64_t channels) {
  const std::int64_t window = times(conv.kernel_size[0], conv.kernel_size[1]);
  const std::int64_t kernel = times(times(window, channels / conv.groups), conv.filters);
  return {.trainable = plus(kernel, conv.use_bias ? conv.filters : 0), .fixed = 0};
}
ParameterCount count(const BatchNormalization& norm, std::int64_t channels) {
  return {.trainable = times(channels, (norm.center ? 1 : 0) + (norm.scale ? 1 : 0)), .fixed = times(channels, 2)};
}
ParameterCount count(const Normalization& norm, std::int64_t channels) {
  // Numbers that are given are settings; otherwise Keras holds means, variances and how many rows they are of.
  return {.trainable = 0, .fixed = norm.mean.empty() ? plus(times(channels, 2), 1) : 0};
}
template <class Other>
ParameterCount count(const Other&, std::int64_t) {
  return {};
}

}  // namespace

ParameterCount parameters_of(const Layer& layer) {
  const std::int64_t channels = layer.input_shape.empty() ? 0 : layer.input_shape.back();
  const ParameterCount all = std::visit([&](const auto& kind) { return count(kind, channels); }, layer.kind);
  if (layer.trainable) return all;
  return {.trainable = 0, .fixed = plus(all.trainable, all.fixed)};
}

ParameterCount parameters_of(const Architecture& architecture) {
  ParameterCount sum;
  for (const Layer& layer : architecture.layers) {
    const ParameterCount one = parameters_of(layer);
    sum.trainable = plus(sum.trainable, one.trainable);
    sum.fixed = plus(sum.fixed, one.fixed);
  }
  return sum;
}

std::int64_t parameter_count(const Architecture& architecture) {
  const ParameterCount sum = parameters_of(architecture);
  return plus(sum.trainable, sum.fixed);
}

}  // namespace slipway::keras

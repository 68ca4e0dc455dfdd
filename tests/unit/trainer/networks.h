// Small networks and numbers for the trainer's tests. Reference values come from Keras 3.15 with the same numbers.
#pragma once

#include <gtest/gtest.h>
#include <torch/script.h>

#include <cmath>
#include <string>
#include <vector>

#include "services/trainer/torchscript_compiler.h"

namespace slipway::trainer {

using Dims = std::vector<std::int64_t>;

// scale * sin(rate * i), i from 1, in row-major order.
inline torch::Tensor waves(const Dims& shape, double scale, double rate) {
  std::int64_t count = 1;
  for (const auto d : shape) count *= d;
  return (torch::arange(1, count + 1, torch::kFloat64) * rate).sin().mul(scale).to(torch::kFloat32).reshape(shape);
}

// A layer of an architecture: what it is and the shape it gives.
struct Part {
  decltype(keras::Layer::kind) kind;
  Dims output;
  bool trainable = true;
  std::string name = {};
};

inline keras::Architecture sequential(const Dims& input, const std::vector<Part>& parts) {
  keras::Architecture architecture;
  architecture.name = "sequential";
  architecture.input_shape = input;
  architecture.input_name = "input_layer";
  Dims shape = input;
  for (const auto& part : parts) {
    keras::Layer layer;
    layer.name = part.name.empty() ? "layer_" + std::to_string(architecture.layers.size()) : part.name;
    layer.trainable = part.trainable;
    layer.kind = part.kind;
    layer.input_shape = shape;
    layer.output_shape = shape = part.output;
    architecture.layers.push_back(layer);
  }
  return architecture;
}

// Glorot for kernels, as Keras has it by default.
inline keras::Initializer glorot() {
  keras::Initializer i;
  i.kind = keras::Initializer::Kind::kVarianceScaling;
  return i;
}
inline keras::Initializer ones() {
  keras::Initializer i;
  i.kind = keras::Initializer::Kind::kOnes;
  return i;
}

inline keras::Dense dense(std::int64_t units, keras::Activation activation = keras::Activation::kLinear) {
  keras::Dense d;
  d.units = units;
  d.activation = activation;
  d.kernel = glorot();
  return d;
}
inline keras::Conv2D conv(std::int64_t filters, std::int64_t h, std::int64_t w) {
  keras::Conv2D c;
  c.filters = filters;
  c.kernel_size[0] = h;
  c.kernel_size[1] = w;
  c.kernel = glorot();
  return c;
}
inline keras::BatchNormalization batch_norm(double momentum = 0.99) {
  keras::BatchNormalization b;
  b.momentum = momentum;
  b.gamma = b.moving_variance = ones();
  return b;
}
inline keras::Dropout dropout(double rate) {
  keras::Dropout d;
  d.rate = rate;
  return d;
}
inline keras::ActivationLayer activation(keras::Activation a) {
  keras::ActivationLayer layer;
  layer.activation = a;
  return layer;
}

// Gives every weight the numbers the references were made with: waves in Keras' own layout, a rate for each.
inline void fill(Network& network) {
  torch::NoGradGuard no_grad;
  std::string layer;
  int place = 0;
  for (auto& [name, tensor] : network.all) {
    if (name.ends_with(".counts") || name.ends_with(".mean") || name.ends_with(".deviation") ||
        name.ends_with(".scale") || name.ends_with(".offset")) {
      continue;
    }
    const auto owner = name.substr(0, name.find('.'));
    place = owner == layer ? place + 1 : 0;
    layer = owner;
    const double rate = 0.9 + 0.1 * place;
    torch::Tensor values;
    if (tensor.dim() == 2) {  // Keras: [in, out]
      values = waves({tensor.size(1), tensor.size(0)}, 0.5, rate).t();
    } else if (tensor.dim() == 4) {  // Keras: [h, w, in, out]
      values = waves({tensor.size(2), tensor.size(3), tensor.size(1), tensor.size(0)}, 0.5, rate).permute({3, 2, 0, 1});
    } else {
      values = waves({tensor.size(0)}, 0.5, rate);
    }
    if (name.ends_with("running_var")) values = values.abs() + 0.5;
    tensor.copy_(values);
  }
}

inline void expect_near(const torch::Tensor& found, const std::vector<float>& wanted, double tolerance = 2e-6) {
  ASSERT_EQ(found.numel(), std::ssize(wanted));
  const auto flat = found.detach().contiguous().reshape(-1).to(torch::kFloat64);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double is = flat[static_cast<std::int64_t>(i)].item<double>();
    EXPECT_NEAR(is, wanted[i], tolerance * (1 + std::abs(wanted[i]))) << "at " << i;
  }
}

}  // namespace slipway::trainer

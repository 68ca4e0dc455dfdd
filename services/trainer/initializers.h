// Keras' initialisers, drawn from generators of their own: the numbers depend on the seed alone, not on threads, on
// other layers or on what was drawn before.
#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "lib/keras/job_spec.h"

namespace slipway::trainer {

// Inputs and outputs of one unit as Keras counts them: times the receptive field for a convolution.
struct Fans {
  double in = 1;
  double out = 1;
};

// A well-mixed seed of two numbers: neighbours give unrelated streams.
[[nodiscard]] std::uint64_t mix_seed(std::uint64_t a, std::uint64_t b);

// A new f32 tensor of `shape`. `seed` is used unless the initialiser has its own.
[[nodiscard]] torch::Tensor initialize(const keras::Initializer& initializer, torch::IntArrayRef shape, Fans fans,
                                       std::uint64_t seed);

}  // namespace slipway::trainer

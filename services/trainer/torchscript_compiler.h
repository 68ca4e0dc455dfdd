// Turns the layers of a job into the TorchScript module that is trained, saved and served.
#pragma once

#include <torch/script.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"
#include "services/trainer/named_tensors.h"

namespace slipway::trainer {

// l1 * sum|w| + l2 * sum w^2 over one trained weight.
struct Penalty {
  torch::Tensor weight;
  keras::Regularizer regularizer;
};

// `module` takes x, f32 [-1, *input_shape] as Keras has it (channels last), in two methods: `forward` gives what is
// served; `logits` leaves out a softmax or sigmoid at the end, so that losses can be taken in their stable form.
// Weights are named "<layer>.<what>" in layer order: weight and bias as in torch.nn (Dense [out, in], Conv2D
// [out, in / groups, h, w]), running_mean and running_var for BatchNormalization.
struct Network {
  torch::jit::Module module;
  NamedTensors trained;  // what the optimizer moves
  NamedTensors all;      // these, the frozen ones, and the buffers
  std::vector<Penalty> penalties;
  keras::Activation last_activation = keras::Activation::kLinear;  // what forward adds to logits
  std::string source;                                              // of the two methods
};

// Weights are initialised from `seed` and each layer's place. Every Normalization has its numbers by now.
// Errors: kInternal (torch refuses the module).
[[nodiscard]] Result<Network> compile(const keras::Architecture& architecture, std::uint64_t seed);

// Fills in the mean and variance of each Normalization that lacks them, over `rows` of `x` ([n, *input_shape], any
// dtype), summed in double precision. `x` must not be empty. Errors: as compile.
[[nodiscard]] Result<void> adapt(keras::Architecture& architecture, const torch::Tensor& x, std::uint64_t seed);

// Whether any Normalization lacks its numbers.
[[nodiscard]] bool wants_adapting(const keras::Architecture& architecture);

}  // namespace slipway::trainer

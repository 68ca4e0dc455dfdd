// Optimizer steps with Keras' formulas over named weights.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"
#include "services/trainer/named_tensors.h"

namespace slipway::trainer {

// Clips gradients, applies decoupled weight decay, then steps. State: one tensor of the weight's shape for each of the
// optimizer's slots ("momentum", "velocity", "velocity_hat", "average_gradient") and weight.
// Threads: one at a time. Results do not depend on the number of threads.
class Optimizer {
 public:
  Optimizer(const keras::Optimizer& settings, NamedTensors weights);

  // One step; `gradients` in the order of the weights, and may be overwritten. An undefined one counts as zero.
  void step(std::vector<torch::Tensor>& gradients, double learning_rate);

  [[nodiscard]] const std::vector<torch::Tensor>& weights() const { return weights_; }
  [[nodiscard]] std::int64_t steps() const { return steps_; }

  // State as "<weight>/<slot>", the tensors themselves.
  [[nodiscard]] NamedTensors state() const;

  // Copies values into the state. Errors: kDataLoss (a name or shape that does not belong here, or one missing).
  [[nodiscard]] Result<void> restore(const NamedTensors& state, std::int64_t steps);

 private:
  struct Slot {
    std::string name;
    std::vector<torch::Tensor> tensors;  // one for each weight
  };
  std::vector<torch::Tensor>& slot(const char* name);

  void clip(std::vector<torch::Tensor>& gradients) const;
  void decay(double learning_rate);
  void step_sgd(std::vector<torch::Tensor>& gradients, double learning_rate);
  void step_adam(std::vector<torch::Tensor>& gradients, double learning_rate);
  void step_rmsprop(std::vector<torch::Tensor>& gradients, double learning_rate);

  const keras::Optimizer settings_;
  std::vector<std::string> names_;
  std::vector<torch::Tensor> weights_;
  std::vector<Slot> slots_;
  std::vector<torch::Tensor> step_numbers_;  // the same scalar for each weight: what the fused kernels read
  std::int64_t steps_ = 0;
};

}  // namespace slipway::trainer

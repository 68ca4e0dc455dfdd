// The loss and the metrics of a job, with Keras' reductions.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"
#include "schema/records.h"
#include "services/trainer/torchscript_compiler.h"

namespace slipway::trainer {

// Sums from which the means of an epoch so far are made; kept in checkpoints as they are.
struct RunningMeans {
  double rows = 0;
  double loss = 0;              // sum of batch losses times batch rows
  std::vector<double> metrics;  // one sum for each metric
  std::vector<double> counts;   // and what it is divided by
};

// Threads: one at a time.
class Objective {
 public:
  // `last_activation` is what the network's forward adds to its logits.
  Objective(const keras::Loss& loss, std::vector<keras::MetricSpec> metrics, keras::Activation last_activation);

  // Labels as the loss wants them: i64 class numbers [n] become one-hot rows or f32 where the loss and the width of
  // the output ask for it. `labels` is [n] (i64 or f32) or [n, ...] f32; `output_shape` is without the batch.
  // Errors: kInvalidArgument (they do not fit the output).
  [[nodiscard]] Result<torch::Tensor> targets(const torch::Tensor& labels,
                                              const std::vector<std::int64_t>& output_shape) const;

  // Mean loss over all elements of a batch, a scalar with a gradient; without penalties.
  [[nodiscard]] torch::Tensor loss(const torch::Tensor& logits, const torch::Tensor& targets) const;

  // What regularizers add to the loss; undefined when there are none.
  [[nodiscard]] static torch::Tensor penalty(const std::vector<Penalty>& penalties);

  // Adds a batch; `loss` includes the penalty.
  void add(RunningMeans& means, double loss, const torch::Tensor& logits, const torch::Tensor& targets) const;

  // "loss" and each metric, each name after `prefix`. No rows: all zero.
  [[nodiscard]] std::vector<Metric> logs(const RunningMeans& means, const std::string& prefix = "") const;

 private:
  [[nodiscard]] torch::Tensor values(const torch::Tensor& logits) const;  // as served

  const keras::Loss loss_;
  const std::vector<keras::MetricSpec> metrics_;
  const keras::Activation last_;
  const bool on_logits_;  // the loss is taken from logits
};

}  // namespace slipway::trainer

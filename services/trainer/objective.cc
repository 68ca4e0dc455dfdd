#include "services/trainer/objective.h"

#include <cmath>
#include <format>

#include "lib/tensor/shape.h"

namespace slipway::trainer {
namespace {

using keras::Activation;
using Kind = keras::Loss::Kind;

constexpr double kEpsilon = 1e-7;  // keras.backend.epsilon()

bool is_crossentropy(Kind kind) {
  return kind == Kind::kSparseCategoricalCrossentropy || kind == Kind::kCategoricalCrossentropy ||
         kind == Kind::kBinaryCrossentropy;
}

// A softmax or sigmoid at the end belongs to the loss: both together have a stable form that starts from logits.
bool takes_logits(const keras::Loss& loss, Activation last) {
  if (!is_crossentropy(loss.kind)) return false;
  if (loss.from_logits) return last == Activation::kLinear;
  return last == (loss.kind == Kind::kBinaryCrossentropy ? Activation::kSigmoid : Activation::kSoftmax);
}

// Natural logarithm of probabilities as Keras takes it: made to sum to one, then kept away from 0 and 1.
torch::Tensor log_of_probabilities(const torch::Tensor& values) {
  return (values / values.sum(-1, true)).clamp(kEpsilon, 1 - kEpsilon).log();
}

}  // namespace

Objective::Objective(const keras::Loss& loss, std::vector<keras::MetricSpec> metrics, Activation last_activation)
    : loss_(loss),
      metrics_(std::move(metrics)),
      last_(last_activation),
      on_logits_(takes_logits(loss, last_activation)) {}

torch::Tensor Objective::values(const torch::Tensor& logits) const {
  if (last_ == Activation::kSoftmax) return torch::softmax(logits, -1);
  if (last_ == Activation::kSigmoid) return torch::sigmoid(logits);
  return logits;
}

Result<torch::Tensor> Objective::targets(const torch::Tensor& labels,
                                         const std::vector<std::int64_t>& output_shape) const {
  const auto width = output_shape.empty() ? 1 : output_shape.back();
  auto shape = output_shape;
  shape.insert(shape.begin(), labels.size(0));
  if (loss_.kind == Kind::kSparseCategoricalCrossentropy) {
    shape.pop_back();
    const auto wanted = element_count(shape);
    if (!wanted || *wanted != labels.numel()) {
      return fail(Code::kInvalidArgument, std::format("labels of shape {} for an output of shape {}",
                                                      to_string(labels.sizes()), to_string(output_shape)));
    }
    return labels.to(torch::kInt64).reshape(shape);
  }
  if (const auto wanted = element_count(shape); wanted && *wanted == labels.numel()) {
    return labels.to(torch::kFloat32).reshape(shape);
  }
  if (labels.scalar_type() == torch::kInt64 && labels.dim() == 1 && output_shape.size() == 1) {
    if (labels.numel() > 0 && (labels.min().item<std::int64_t>() < 0 || labels.max().item<std::int64_t>() >= width)) {
      return fail(Code::kInvalidArgument,
                  std::format("labels up to {} for an output of {} values", labels.max().item<std::int64_t>(), width));
    }
    return torch::one_hot(labels, width).to(torch::kFloat32);
  }
  return fail(Code::kInvalidArgument, std::format("labels of shape {} for an output of shape {}",
                                                  to_string(labels.sizes()), to_string(output_shape)));
}

torch::Tensor Objective::loss(const torch::Tensor& logits, const torch::Tensor& targets) const {
  const auto smooth = [&](double toward) {
    if (loss_.label_smoothing == 0) return targets;
    return targets * (1 - loss_.label_smoothing) + loss_.label_smoothing * toward;
  };
  // from_logits: whatever the network gives is taken for logits, an activation at the end included.
  const bool stable = on_logits_ || loss_.from_logits;
  const auto output = on_logits_ ? logits : values(logits);
  switch (loss_.kind) {
    case Kind::kMeanSquaredError:
      return torch::mse_loss(output, targets);
    case Kind::kMeanAbsoluteError:
      return torch::l1_loss(output, targets);
    case Kind::kSparseCategoricalCrossentropy: {
      const auto rows = output.dim() == 2 ? output : output.reshape({-1, output.size(-1)});
      const auto classes = targets.dim() == 1 ? targets : targets.reshape(-1);
      return torch::nll_loss(stable ? torch::log_softmax(rows, -1) : log_of_probabilities(rows), classes);
    }
    case Kind::kCategoricalCrossentropy: {
      const auto log = stable ? torch::log_softmax(output, -1) : log_of_probabilities(output);
      return -(smooth(1.0 / static_cast<double>(output.size(-1))) * log).sum(-1).mean();
    }
    case Kind::kBinaryCrossentropy: {
      if (stable) return torch::binary_cross_entropy_with_logits(output, smooth(0.5));
      const auto p = output.clamp(kEpsilon, 1 - kEpsilon);
      const auto y = smooth(0.5);
      return -(y * p.log() + (1 - y) * (1 - p).log()).mean();
    }
  }
  std::unreachable();
}

torch::Tensor Objective::penalty(const std::vector<Penalty>& penalties) {
  torch::Tensor sum;
  for (const auto& [weight, regularizer] : penalties) {
    torch::Tensor term;
    if (regularizer.l1 != 0) term = weight.abs().sum() * regularizer.l1;
    if (regularizer.l2 != 0) {
      const auto l2 = weight.square().sum() * regularizer.l2;
      term = term.defined() ? term + l2 : l2;
    }
    if (term.defined()) sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

void Objective::add(RunningMeans& means, double loss, const torch::Tensor& logits, const torch::Tensor& targets) const {
  torch::NoGradGuard no_grad;
  const auto rows = static_cast<double>(logits.size(0));
  means.rows += rows;
  means.loss += loss * rows;
  means.metrics.resize(metrics_.size());
  means.counts.resize(metrics_.size());
  for (std::size_t i = 0; i < metrics_.size(); ++i) {
    torch::Tensor found;  // one value for each thing counted
    using M = keras::MetricKind;
    switch (metrics_[i].kind) {
      case M::kSparseCategoricalAccuracy: {
        // Softmax keeps the order, so the largest logit will do.
        const auto classes = targets.scalar_type() == torch::kInt64 ? targets : targets.argmax(-1);
        found = logits.argmax(-1).eq(classes);
        break;
      }
      case M::kCategoricalAccuracy: {
        const auto classes = targets.scalar_type() == torch::kInt64 ? targets : targets.argmax(-1);
        found = logits.argmax(-1).eq(classes);
        break;
      }
      case M::kBinaryAccuracy:
        found = values(logits).gt(0.5).to(torch::kFloat32).eq(targets);
        break;
      case M::kMeanSquaredError:
        found = (values(logits) - targets).square();
        break;
      case M::kMeanAbsoluteError:
        found = (values(logits) - targets).abs();
        break;
      case M::kRootMeanSquaredError:
        found = (values(logits) - targets).square();
        break;
    }
    means.metrics[i] += found.scalar_type() == torch::kBool ? static_cast<double>(found.sum().item<std::int64_t>())
                                                            : found.sum(torch::kFloat64).item<double>();
    means.counts[i] += static_cast<double>(found.numel());
  }
}

std::vector<Metric> Objective::logs(const RunningMeans& means, const std::string& prefix) const {
  std::vector<Metric> result{{prefix + "loss", means.rows > 0 ? means.loss / means.rows : 0.0}};
  for (std::size_t i = 0; i < metrics_.size(); ++i) {
    const bool any = i < means.counts.size() && means.counts[i] > 0;
    double value = any ? means.metrics[i] / means.counts[i] : 0.0;
    if (metrics_[i].kind == keras::MetricKind::kRootMeanSquaredError) value = std::sqrt(value);
    result.push_back({prefix + metrics_[i].name, value});
  }
  return result;
}

}  // namespace slipway::trainer

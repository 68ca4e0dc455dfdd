#include "services/trainer/optimizer.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <map>

#include "lib/tensor/shape.h"

namespace slipway::trainer {

using Kind = keras::Optimizer::Kind;

Optimizer::Optimizer(const keras::Optimizer& settings, NamedTensors weights) : settings_(settings) {
  for (auto& [name, tensor] : weights) {
    names_.push_back(std::move(name));
    weights_.push_back(std::move(tensor));
  }
  std::vector<std::string> wanted;
  switch (settings_.kind) {
    case Kind::kSgd:
      if (settings_.momentum != 0) wanted = {"momentum"};
      break;
    case Kind::kAdam:
    case Kind::kAdamW:
      wanted = {"momentum", "velocity"};
      if (settings_.amsgrad) wanted.push_back("velocity_hat");
      break;
    case Kind::kRmsprop:
      wanted = {"velocity"};
      if (settings_.momentum > 0) wanted.push_back("momentum");
      if (settings_.centered) wanted.push_back("average_gradient");
      break;
  }
  for (auto& name : wanted) {
    Slot made{std::move(name), {}};
    for (const auto& weight : weights_) made.tensors.push_back(torch::zeros_like(weight).set_requires_grad(false));
    slots_.push_back(std::move(made));
  }
  const auto number = torch::zeros({}, torch::kFloat32);
  step_numbers_.assign(weights_.size(), number);
}

std::vector<torch::Tensor>& Optimizer::slot(const char* name) {
  return std::ranges::find(slots_, name, &Slot::name)->tensors;
}

void Optimizer::step(std::vector<torch::Tensor>& gradients, double learning_rate) {
  torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) gradients[i] = torch::zeros_like(weights_[i]);
    // The fused kernels go through memory without looking at strides; convolutions may give channels-last gradients.
    gradients[i] = gradients[i].contiguous();
  }
  ++steps_;
  if (weights_.empty()) return;
  clip(gradients);
  switch (settings_.kind) {
    case Kind::kSgd:
      return step_sgd(gradients, learning_rate);
    case Kind::kAdam:
    case Kind::kAdamW:
      return step_adam(gradients, learning_rate);
    case Kind::kRmsprop:
      return step_rmsprop(gradients, learning_rate);
  }
}

// Keras takes the first of the three that is set.
void Optimizer::clip(std::vector<torch::Tensor>& gradients) const {
  if (settings_.clipnorm > 0) {
    for (auto& g : gradients) {
      const double norm = g.norm().item<double>();
      if (norm > settings_.clipnorm) g = g * (settings_.clipnorm / norm);
    }
  } else if (settings_.global_clipnorm > 0) {
    double squares = 0;
    for (const auto& g : gradients) squares += std::pow(g.norm().item<double>(), 2);
    const double norm = std::sqrt(squares);
    // Not finite: the gradients go through as they are and the loss will tell.
    if (norm > settings_.global_clipnorm) {
      for (auto& g : gradients) g = g * (settings_.global_clipnorm / norm);
    }
  } else if (settings_.clipvalue > 0) {
    for (auto& g : gradients) g = g.clamp(-settings_.clipvalue, settings_.clipvalue);
  }
}

void Optimizer::decay(double learning_rate) {
  if (settings_.weight_decay != 0) at::_foreach_mul_(weights_, 1 - settings_.weight_decay * learning_rate);
}

void Optimizer::step_sgd(std::vector<torch::Tensor>& gradients, double learning_rate) {
  decay(learning_rate);
  if (settings_.momentum == 0) {
    at::_fused_sgd_(weights_, gradients, {}, 0, 0, learning_rate, 0, false, false, false);
    return;
  }
  // The rate is part of the velocity, so a change of rate acts on new gradients only; torch's form differs there.
  auto& velocity = slot("momentum");
  at::_foreach_mul_(velocity, settings_.momentum);
  at::_foreach_add_(velocity, gradients, -learning_rate);
  if (settings_.nesterov) {
    at::_foreach_add_(weights_, velocity, settings_.momentum);
    at::_foreach_add_(weights_, gradients, -learning_rate);
  } else {
    at::_foreach_add_(weights_, velocity);
  }
}

void Optimizer::step_adam(std::vector<torch::Tensor>& gradients, double learning_rate) {
  step_numbers_[0].fill_(static_cast<double>(steps_));
  // The kernel divides by sqrt(v) / c + eps with c = sqrt(1 - beta_2^t); Keras by (sqrt(v) + epsilon) / c.
  const double c = std::sqrt(1 - std::pow(settings_.beta_2, static_cast<double>(steps_)));
  const double epsilon = settings_.epsilon / c;
  const std::vector<torch::Tensor> none;
  const auto& hats = settings_.amsgrad ? slot("velocity_hat") : none;
  // AdamW's kernel is the one with decoupled decay, which Keras' Adam has too when given a weight_decay.
  const auto& run = settings_.weight_decay != 0 ? at::_ops::_fused_adamw_::call : at::_ops::_fused_adam_::call;
  run(weights_, gradients, slot("momentum"), slot("velocity"), hats, step_numbers_, learning_rate, settings_.beta_1,
      settings_.beta_2, settings_.weight_decay, epsilon, settings_.amsgrad, false, {}, {});
}

void Optimizer::step_rmsprop(std::vector<torch::Tensor>& gradients, double learning_rate) {
  decay(learning_rate);
  auto& velocity = slot("velocity");
  at::_foreach_mul_(velocity, settings_.rho);
  at::_foreach_addcmul_(velocity, gradients, gradients, 1 - settings_.rho);
  std::vector<torch::Tensor> denominator;
  if (settings_.centered) {
    auto& average = slot("average_gradient");
    at::_foreach_mul_(average, settings_.rho);
    at::_foreach_add_(average, gradients, 1 - settings_.rho);
    denominator = at::_foreach_addcmul(velocity, average, average, -1);
    at::_foreach_add_(denominator, settings_.epsilon);
  } else {
    denominator = at::_foreach_add(velocity, settings_.epsilon);
  }
  at::_foreach_sqrt_(denominator);
  if (settings_.momentum > 0) {
    auto& momentum = slot("momentum");
    at::_foreach_mul_(momentum, settings_.momentum);
    at::_foreach_addcdiv_(momentum, gradients, denominator, learning_rate);
    at::_foreach_sub_(weights_, momentum);
  } else {
    at::_foreach_addcdiv_(weights_, gradients, denominator, -learning_rate);
  }
}

NamedTensors Optimizer::state() const {
  NamedTensors result;
  for (const auto& [name, tensors] : slots_) {
    for (std::size_t i = 0; i < tensors.size(); ++i) result.emplace_back(names_[i] + "/" + name, tensors[i]);
  }
  return result;
}

Result<void> Optimizer::restore(const NamedTensors& state, std::int64_t steps) {
  torch::NoGradGuard no_grad;
  auto mine = this->state();
  const std::map<std::string, torch::Tensor> theirs(state.begin(), state.end());
  if (theirs.size() != mine.size()) {
    return fail(Code::kDataLoss, std::format("optimizer state of {} tensors, {} wanted", theirs.size(), mine.size()));
  }
  for (auto& [name, tensor] : mine) {
    const auto found = theirs.find(name);
    if (found == theirs.end()) return fail(Code::kDataLoss, std::format("no optimizer state '{}'", name));
    if (found->second.sizes() != tensor.sizes()) {
      return fail(Code::kDataLoss, std::format("optimizer state '{}' of shape {}, {} wanted", name,
                                               to_string(found->second.sizes()), to_string(tensor.sizes())));
    }
  }
  for (auto& [name, tensor] : mine) tensor.copy_(theirs.at(name));
  steps_ = steps;
  return {};
}

}  // namespace slipway::trainer

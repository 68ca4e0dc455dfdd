// Tensors with the names they keep in checkpoints.
#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

namespace slipway::trainer {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

}  // namespace slipway::trainer

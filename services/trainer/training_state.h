// The part of a checkpoint that is not tensors, as JSON. Numbers come back bit for bit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"
#include "services/trainer/objective.h"

namespace slipway::trainer {

struct TrainingState {
  std::string identity;  // of the job and its data
  int threads = 1;
  std::int64_t epoch = 0;  // complete epochs
  std::int64_t step = 0;   // batches of the next one done
  std::int64_t optimizer_steps = 0;
  double learning_rate = 0;
  bool done = false;
  RunningMeans means;
  std::string callbacks;  // lib/keras' own text
  std::vector<std::vector<Metric>> history;
};

[[nodiscard]] std::string write_state(const TrainingState& state);

// Errors: kDataLoss (damaged, or of another format).
[[nodiscard]] Result<TrainingState> read_state(std::string_view text);

}  // namespace slipway::trainer

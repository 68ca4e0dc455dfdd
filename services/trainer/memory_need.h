// Whether a job fits into this machine's memory, known before its first tensor is made.
#pragma once

#include <cstdint>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"

namespace slipway::trainer {

// The least that training this job takes, in bytes, beside its data: weights, gradients, what the optimizer keeps of
// each weight, the best weights if they are kept, two copies of all that while a checkpoint is written (as tensors and
// as a file), and one batch with its activations. Past 2^62 it is given as 2^62.
[[nodiscard]] std::uint64_t memory_need(const keras::JobSpec& spec);

// Holds that and `data` (training_data.h) against what is left. Errors: kTooLarge, with the figures in words.
[[nodiscard]] Result<void> check_memory(const keras::JobSpec& spec, std::uint64_t data, std::uint64_t bytes_left);

}  // namespace slipway::trainer

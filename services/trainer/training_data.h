// The rows of a data set as tensors, as one job wants them.
#pragma once

#include <torch/torch.h>

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"
#include "schema/records.h"

namespace slipway::trainer {

// x is [n, *input_shape], u8 for images and f32 for tables; y is [n], i64 for classes and f32 for numbers.
struct TrainingData {
  torch::Tensor x, y;
  torch::Tensor test_x, test_y;      // of the test set that came along; undefined: none
  std::vector<std::string> classes;  // names of the classes in order; empty: numbers are wanted
};

// A file of the data set: its name and bytes.
using DataFile = std::pair<std::string, std::vector<std::byte>>;

// Reads what `spec` needs from the files of `stored`.
// Errors: kInvalidArgument (damaged, or does not fit the job), kUnsupported (another format), kNotFound (a file is
// missing).
[[nodiscard]] Result<TrainingData> load_training_data(const keras::JobSpec& spec, const Dataset& stored,
                                                      std::span<const DataFile> files);

}  // namespace slipway::trainer

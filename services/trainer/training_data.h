// The rows of a data set as tensors, as one job wants them: images are the mapped file's bytes, nothing is held twice.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/error.h"
#include "lib/dataset/mapped_file.h"
#include "lib/keras/job_spec.h"
#include "schema/records.h"

namespace slipway::trainer {

// x is [n, *input_shape], u8 for images and f32 for tables; y is [n], i64 for classes and f32 for numbers. Images may
// be a view of memory that cannot be written: only read from x.
struct TrainingData {
  torch::Tensor x, y;
  torch::Tensor test_x, test_y;      // of the test set that came along; undefined: none
  std::vector<std::string> classes;  // names of the classes in order; empty: they are called by their numbers
};

// A file of the data set: its name and bytes. What is made of it keeps the file as long as it needs it.
using DataFile = std::pair<std::string, std::shared_ptr<const dataset::MappedFile>>;

// Reads what `spec` needs from the files of `stored`.
// Errors: kInvalidArgument (damaged, or does not fit the job), kUnsupported (another format or element type), kNotFound
// (a file is missing).
[[nodiscard]] Result<TrainingData> load_training_data(const keras::JobSpec& spec, const Dataset& stored,
                                                      std::span<const DataFile> files);

// What a data set of this record takes while `spec` trains on it, in bytes: its files as they are mapped, the numbers
// made of them, and the order of an epoch's rows. Past 2^62 it is given as 2^62.
[[nodiscard]] std::uint64_t data_bytes(const keras::JobSpec& spec, const Dataset& stored);

}  // namespace slipway::trainer

#include "services/trainer/training_data.h"

#include <algorithm>
#include <format>

#include "lib/dataset/inspect.h"
#include "lib/dataset/load.h"
#include "lib/tensor/shape.h"

namespace slipway::trainer {
namespace {

Result<std::span<const std::byte>> find(std::span<const DataFile> files, std::string_view name) {
  const auto found = std::ranges::find(files, name, &DataFile::first);
  if (found == files.end()) return fail(Code::kNotFound, std::format("the data set has no file '{}'", name));
  return std::span<const std::byte>(found->second);
}

// [n, *row] seen as [n, *wanted]: the same numbers in the same order.
Result<torch::Tensor> shaped(const torch::Tensor& x, const std::vector<std::int64_t>& wanted) {
  auto shape = wanted;
  shape.insert(shape.begin(), x.size(0));
  const auto count = element_count(shape);
  if (!count || *count != x.numel()) {
    return fail(Code::kInvalidArgument, std::format("rows of shape {} for a model that takes {}",
                                                    to_string(x.sizes().slice(1)), to_string(wanted)));
  }
  return x.reshape(shape);
}

struct Images {
  torch::Tensor x, y;
};
Result<Images> read_pair(const keras::JobSpec& spec, std::span<const DataFile> files, std::string_view image_file,
                         std::string_view label_file) {
  const auto pixels = find(files, image_file);
  if (!pixels) return std::unexpected(pixels.error());
  const auto labels = find(files, label_file);
  if (!labels) return std::unexpected(labels.error());
  auto set = dataset::read_images(*pixels, *labels);
  if (!set) return std::unexpected(std::move(set).error());

  auto shape = set->row_shape;
  shape.insert(shape.begin(), set->rows);
  // from_blob wants a pointer it could write to; clone only reads.
  auto x = torch::from_blob(const_cast<std::uint8_t*>(set->pixels.data()), shape, torch::kUInt8).clone();
  auto y = torch::tensor(set->labels, torch::kInt64);
  auto fitting = shaped(x, spec.architecture.input_shape);
  if (!fitting) return std::unexpected(std::move(fitting).error());
  return Images{std::move(*fitting), std::move(y)};
}

Result<TrainingData> load_images(const keras::JobSpec& spec, const Dataset& stored, std::span<const DataFile> files) {
  auto train = read_pair(spec, files, dataset::kTrainImages, dataset::kTrainLabels);
  if (!train) return std::unexpected(std::move(train).error());
  TrainingData data;
  data.x = train->x;
  data.y = train->y;
  if (stored.test_rows > 0) {
    auto test = read_pair(spec, files, dataset::kTestImages, dataset::kTestLabels);
    if (!test) return std::unexpected(std::move(test).error());
    data.test_x = test->x;
    data.test_y = test->y;
  }
  for (std::uint64_t c = 0; c < stored.classes; ++c) data.classes.push_back(std::format("{}", c));
  return data;
}

Result<TrainingData> load_table(const keras::JobSpec& spec, std::span<const DataFile> files) {
  if (files.size() != 1)
    return fail(Code::kInvalidArgument, std::format("a table of {} files, 1 wanted", files.size()));
  auto table = dataset::read_table(files[0].second, spec.data.target, spec.data.features);
  if (!table) return std::unexpected(std::move(table).error());
  const auto columns = static_cast<std::int64_t>(table->features.size());
  auto x = shaped(torch::from_blob(table->values.data(), {table->rows, columns}, torch::kFloat32).clone(),
                  spec.architecture.input_shape);
  if (!x) return std::unexpected(std::move(x).error());
  TrainingData data;
  data.x = std::move(*x);
  data.y = table->labels.empty() ? torch::tensor(table->target, torch::kFloat32)
                                 : torch::tensor(table->labels, torch::kInt64);
  data.classes = std::move(table->classes);
  const bool sparse = spec.loss.kind == keras::Loss::Kind::kSparseCategoricalCrossentropy ||
                      spec.loss.kind == keras::Loss::Kind::kCategoricalCrossentropy;
  if (sparse && table->labels.empty()) {
    // Classes given as numbers: as many as the model has outputs.
    const auto whole = data.y.round();
    if (!whole.equal(data.y))
      return fail(Code::kInvalidArgument, std::format("the classes in '{}' are not whole numbers", spec.data.target));
    data.y = whole.to(torch::kInt64);
    const auto& output = spec.architecture.output_shape();
    for (std::int64_t c = 0; !output.empty() && c < output.back(); ++c) data.classes.push_back(std::format("{}", c));
  }
  return data;
}

}  // namespace

Result<TrainingData> load_training_data(const keras::JobSpec& spec, const Dataset& stored,
                                        std::span<const DataFile> files) {
  if (stored.format == "idx") return load_images(spec, stored, files);
  if (stored.format == "csv") return load_table(spec, files);
  return fail(Code::kUnsupported, std::format("a data set of format '{}'; idx and csv are known", stored.format));
}

}  // namespace slipway::trainer

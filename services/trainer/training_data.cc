#include "services/trainer/training_data.h"

#include <algorithm>
#include <format>

#include "lib/dataset/inspect.h"
#include "lib/dataset/load.h"
#include "lib/tensor/shape.h"

namespace slipway::trainer {
namespace {

Result<std::shared_ptr<const dataset::MappedFile>> find(std::span<const DataFile> files, std::string_view name) {
  const auto found = std::ranges::find(files, name, &DataFile::first);
  if (found == files.end()) return fail(Code::kNotFound, std::format("the data set has no file '{}'", name));
  return found->second;
}

// A tensor over the elements of `owner`, which it keeps.
template <class T>
torch::Tensor tensor_of(std::vector<T> values, std::vector<std::int64_t> shape, torch::ScalarType type) {
  const auto owner = std::make_shared<std::vector<T>>(std::move(values));
  return torch::from_blob(owner->data(), shape, [owner](void*) {}, type);
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
  auto set = dataset::read_images((*pixels)->bytes(), (*labels)->bytes());
  if (!set) return std::unexpected(std::move(set).error());

  auto shape = set->row_shape;
  shape.insert(shape.begin(), set->rows);
  // from_blob wants a pointer it could write to; whoever has the tensor only reads.
  auto x = torch::from_blob(
      const_cast<std::uint8_t*>(set->pixels.data()), shape, [owner = *pixels](void*) {}, torch::kUInt8);
  auto y =
      torch::from_blob(const_cast<std::uint8_t*>(set->labels.data()), {set->rows}, torch::kUInt8).to(torch::kInt64);
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
  return data;
}

Result<TrainingData> load_table(const keras::JobSpec& spec, const Dataset& stored, std::span<const DataFile> files) {
  if (files.size() != 1)
    return fail(Code::kInvalidArgument, std::format("a table of {} files, 1 wanted", files.size()));
  auto table =
      dataset::read_table(files[0].second->bytes(), stored.columns, stored.rows, spec.data.target, spec.data.features);
  if (!table) return std::unexpected(std::move(table).error());
  const auto columns = static_cast<std::int64_t>(table->features.size());
  auto x = shaped(tensor_of(std::move(table->values), {table->rows, columns}, torch::kFloat32),
                  spec.architecture.input_shape);
  if (!x) return std::unexpected(std::move(x).error());
  TrainingData data;
  data.x = std::move(*x);
  const bool numbers = table->labels.empty();
  data.y = numbers ? tensor_of(std::move(table->target), {table->rows}, torch::kFloat32)
                   : tensor_of(std::move(table->labels), {table->rows}, torch::kInt64);
  data.classes = std::move(table->classes);
  const bool sparse = spec.loss.kind == keras::Loss::Kind::kSparseCategoricalCrossentropy ||
                      spec.loss.kind == keras::Loss::Kind::kCategoricalCrossentropy;
  if (sparse && numbers) {
    const auto whole = data.y.round();
    if (!whole.equal(data.y))
      return fail(Code::kInvalidArgument, std::format("the classes in '{}' are not whole numbers", spec.data.target));
    data.y = whole.to(torch::kInt64);
  }
  return data;
}

}  // namespace

Result<TrainingData> load_training_data(const keras::JobSpec& spec, const Dataset& stored,
                                        std::span<const DataFile> files) {
  const bool images = stored.format == "idx";
  if (!images && stored.format != "csv") {
    return fail(Code::kUnsupported, std::format("a data set of format '{}'; idx and csv are known", stored.format));
  }
  if (const auto wanted = images ? DType::kU8 : DType::kF32; stored.dtype != wanted) {
    return fail(Code::kUnsupported, std::format("a data set of format {} with elements of type number {}",
                                                stored.format, static_cast<unsigned>(stored.dtype)));
  }
  return images ? load_images(spec, stored, files) : load_table(spec, stored, files);
}

std::uint64_t data_bytes(const keras::JobSpec& spec, const Dataset& stored) {
  constexpr double kMost = static_cast<double>(std::uint64_t{1} << 62);
  const auto rows = static_cast<double>(stored.rows);
  const double all_rows = rows + static_cast<double>(stored.test_rows);
  double bytes = static_cast<double>(stored.size_bytes);
  if (stored.format == "csv") {
    bytes += sizeof(float) * rows * static_cast<double>(element_count(spec.architecture.input_shape).value_or(0));
  }
  // A number or a class for each row; the loss may want classes as a row of ones and zeros, made by way of integers.
  const auto& output = spec.architecture.output_shape();
  const auto width = static_cast<double>(element_count(output).value_or(1));
  const bool one_hot = spec.loss.kind == keras::Loss::Kind::kCategoricalCrossentropy;
  bytes += all_rows * sizeof(std::int64_t);
  if (one_hot) bytes += all_rows * width * (sizeof(std::int64_t) + sizeof(float));
  if (spec.fit.shuffle) bytes += rows * sizeof(std::int64_t);
  return static_cast<std::uint64_t>(std::min(bytes, kMost));
}

}  // namespace slipway::trainer

// Whether a job can be trained on a data set: check_against of job_spec.h.
#include <algorithm>
#include <cmath>

#include "lib/keras/job_spec.h"
#include "lib/keras/json_text.h"
#include "lib/tensor/shape.h"

namespace slipway::keras {
namespace {

using LossKind = Loss::Kind;

std::string column_names(const Dataset& dataset) {
  constexpr std::size_t kMost = 50;
  std::string out;
  for (std::size_t i = 0; i < dataset.columns.size() && i < kMost; ++i) {
    out += (i == 0 ? "" : ", ") + printable(dataset.columns[i].name);
  }
  if (dataset.columns.size() > kMost) out += std::format(", and {} more", dataset.columns.size() - kMost);
  return out;
}

const Column* find_column(const Dataset& dataset, std::string_view name) {
  const auto found = std::ranges::find(dataset.columns, name, &Column::name);
  return found == dataset.columns.end() ? nullptr : &*found;
}

Result<void> wrong_loss(const JobSpec& spec, std::string message) {
  return fail_at(spec.compile_path + ".loss", Code::kInvalidArgument, std::move(message));
}

std::string_view loss_name(LossKind kind) {
  switch (kind) {
    case LossKind::kMeanSquaredError:
      return "mean_squared_error";
    case LossKind::kMeanAbsoluteError:
      return "mean_absolute_error";
    case LossKind::kSparseCategoricalCrossentropy:
      return "sparse_categorical_crossentropy";
    case LossKind::kCategoricalCrossentropy:
      return "categorical_crossentropy";
    case LossKind::kBinaryCrossentropy:
      return "binary_crossentropy";
  }
  return "";
}

// How many classes the model can tell apart; the loss is a cross-entropy.
std::uint64_t outputs_for_classes(const JobSpec& spec) {
  if (spec.loss.kind == LossKind::kBinaryCrossentropy) return 2;
  return static_cast<std::uint64_t>(spec.architecture.output_shape().back());
}

Result<void> check_row(const JobSpec& spec, std::span<const std::int64_t> row, std::string_view of) {
  const auto given = element_count(row);
  const auto wanted = element_count(spec.architecture.input_shape);
  if (given && wanted && *given == *wanted) return {};
  return fail_at("$.model", Code::kInvalidArgument,
                 std::format("the model takes rows of shape {}, but {} has rows of shape {}",
                             to_string(spec.architecture.input_shape), of, to_string(row)));
}

Result<void> check_images(const JobSpec& spec, const Dataset& dataset) {
  if (!spec.data.target.empty()) {
    return fail_at(
        "$.dataset.target", Code::kInvalidArgument,
        std::format("data set '{}' holds images with labels: it has no columns to choose a target from", dataset.name));
  }
  if (!spec.data.features.empty()) {
    return fail_at("$.dataset.features", Code::kInvalidArgument,
                   std::format("data set '{}' holds images: it has no columns to choose features from", dataset.name));
  }
  if (auto row = check_row(spec, dataset.row_shape, std::format("data set '{}'", dataset.name)); !row) return row;
  if (!is_classification(spec.loss)) return {};
  const std::uint64_t outputs = outputs_for_classes(spec);
  if (dataset.classes <= outputs) return {};
  return wrong_loss(spec, std::format("data set '{}' has labels up to {}, but the model tells only {} classes apart "
                                      "(0 to {})",
                                      dataset.name, dataset.classes - 1, outputs, outputs - 1));
}

Result<void> check_target(const JobSpec& spec, const Column& target) {
  const std::string_view loss = loss_name(spec.loss.kind);
  const std::string name = printable(target.name);
  if (!is_classification(spec.loss)) {
    if (!target.text) return {};
    return wrong_loss(spec,
                      std::format("{} wants numbers, but the target '{}' holds text; use a cross-entropy", loss, name));
  }
  const std::uint64_t outputs = outputs_for_classes(spec);
  if (target.text) {
    if (target.categories.size() <= outputs) return {};
    return wrong_loss(spec, std::format("the target '{}' has {} different values, but the model tells only {} classes "
                                        "apart",
                                        name, target.categories.size(), outputs));
  }
  if (spec.loss.kind == LossKind::kBinaryCrossentropy) {
    if (target.min >= 0 && target.max <= 1) return {};
    return wrong_loss(spec, std::format("{} wants a target within 0 and 1, but '{}' goes from {} to {}", loss, name,
                                        target.min, target.max));
  }
  if (!target.integral) {
    return wrong_loss(spec,
                      std::format("{} wants class numbers, but the target '{}' has fractions (from {} to {}); for "
                                  "a number use mse",
                                  loss, name, target.min, target.max));
  }
  if (target.min >= 0 && target.max < static_cast<double>(outputs)) return {};
  return wrong_loss(spec, std::format("{} wants class numbers from 0 to {}, one for each output, but the target '{}' "
                                      "goes from {} to {}",
                                      loss, outputs - 1, name, target.min, target.max));
}

Result<void> check_table(const JobSpec& spec, const Dataset& dataset) {
  if (spec.data.target.empty()) {
    return fail_at("$.dataset.target", Code::kInvalidArgument,
                   std::format("missing: data set '{}' is a table, so name the column to predict: {{\"name\": \"{}\", "
                               "\"target\": ...}}; columns: {}",
                               dataset.name, dataset.name, column_names(dataset)));
  }
  const Column* target = find_column(dataset, spec.data.target);
  if (target == nullptr) {
    return fail_at("$.dataset.target", Code::kInvalidArgument,
                   std::format("data set '{}' has no column '{}'; columns: {}", dataset.name,
                               printable(spec.data.target), column_names(dataset)));
  }
  std::int64_t features = 0;
  for (const std::string& name : spec.data.features) {
    const std::string path = std::format("$.dataset.features[{}]", features++);
    const Column* column = find_column(dataset, name);
    if (column == nullptr) {
      return fail_at(path, Code::kInvalidArgument,
                     std::format("data set '{}' has no column '{}'; columns: {}", dataset.name, printable(name),
                                 column_names(dataset)));
    }
    if (column == target) {
      return fail_at(path, Code::kInvalidArgument,
                     std::format("'{}' is the target, so it cannot be a feature", printable(name)));
    }
    if (column->text) {
      return fail_at(path, Code::kInvalidArgument,
                     std::format("column '{}' holds text; features must be numbers", printable(name)));
    }
  }
  if (spec.data.features.empty()) {
    for (const Column& column : dataset.columns) {
      if (&column == target) continue;
      if (column.text) {
        return fail_at("$.dataset", Code::kInvalidArgument,
                       std::format("column '{}' holds text, and features must be numbers: list the wanted ones in "
                                   "features",
                                   printable(column.name)));
      }
      ++features;
    }
  }
  const Shape row{features};
  if (auto fits = check_row(spec, row, std::format("data set '{}' with these features", dataset.name)); !fits) {
    return fits;
  }
  return check_target(spec, *target);
}

}  // namespace

std::uint64_t training_rows(std::uint64_t rows, double validation_split) {
  if (validation_split <= 0) return rows;
  return static_cast<std::uint64_t>(std::floor(static_cast<double>(rows) * (1.0 - validation_split)));
}

Result<void> check_against(const JobSpec& spec, const Dataset& dataset) {
  const bool table = dataset.format == "csv" || !dataset.columns.empty();
  if (auto fits = table ? check_table(spec, dataset) : check_images(spec, dataset); !fits) return fits;
  if (dataset.rows == 0) {
    return fail_at("$.dataset", Code::kInvalidArgument, std::format("data set '{}' has no rows", dataset.name));
  }
  const std::uint64_t train = training_rows(dataset.rows, spec.fit.validation_split);
  if (train == 0 || (spec.fit.validation_split > 0 && train == dataset.rows)) {
    return fail_at("$.fit.validation_split", Code::kInvalidArgument,
                   std::format("{} of {} rows leaves {} to train on and {} to validate with; wanted at least one each",
                               spec.fit.validation_split, dataset.rows, train, dataset.rows - train));
  }
  return {};
}

}  // namespace slipway::keras

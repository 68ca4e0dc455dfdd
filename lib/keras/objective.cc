#include "lib/keras/objective.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>

#include "lib/keras/json_text.h"
#include "lib/keras/keras_object.h"
#include "lib/tensor/shape.h"

namespace slipway::keras {
namespace {

using LossKind = Loss::Kind;

template <class Kind>
struct Name {
  std::string_view text;
  Kind kind;
};

constexpr std::array<Name<LossKind>, 16> kLosses{{
    {"MeanSquaredError", LossKind::kMeanSquaredError},
    {"mean_squared_error", LossKind::kMeanSquaredError},
    {"mse", LossKind::kMeanSquaredError},
    {"MSE", LossKind::kMeanSquaredError},
    {"MeanAbsoluteError", LossKind::kMeanAbsoluteError},
    {"mean_absolute_error", LossKind::kMeanAbsoluteError},
    {"mae", LossKind::kMeanAbsoluteError},
    {"MAE", LossKind::kMeanAbsoluteError},
    {"SparseCategoricalCrossentropy", LossKind::kSparseCategoricalCrossentropy},
    {"sparse_categorical_crossentropy", LossKind::kSparseCategoricalCrossentropy},
    {"CategoricalCrossentropy", LossKind::kCategoricalCrossentropy},
    {"categorical_crossentropy", LossKind::kCategoricalCrossentropy},
    {"BinaryCrossentropy", LossKind::kBinaryCrossentropy},
    {"binary_crossentropy", LossKind::kBinaryCrossentropy},
    {"bce", LossKind::kBinaryCrossentropy},
    {"BCE", LossKind::kBinaryCrossentropy},
}};
constexpr std::string_view kKnownLosses =
    "sparse_categorical_crossentropy, categorical_crossentropy, binary_crossentropy, mse, mae";

constexpr std::array<Name<MetricKind>, 16> kMetrics{{
    {"SparseCategoricalAccuracy", MetricKind::kSparseCategoricalAccuracy},
    {"sparse_categorical_accuracy", MetricKind::kSparseCategoricalAccuracy},
    {"CategoricalAccuracy", MetricKind::kCategoricalAccuracy},
    {"categorical_accuracy", MetricKind::kCategoricalAccuracy},
    {"BinaryAccuracy", MetricKind::kBinaryAccuracy},
    {"binary_accuracy", MetricKind::kBinaryAccuracy},
    {"MeanSquaredError", MetricKind::kMeanSquaredError},
    {"mean_squared_error", MetricKind::kMeanSquaredError},
    {"mse", MetricKind::kMeanSquaredError},
    {"MSE", MetricKind::kMeanSquaredError},
    {"MeanAbsoluteError", MetricKind::kMeanAbsoluteError},
    {"mean_absolute_error", MetricKind::kMeanAbsoluteError},
    {"mae", MetricKind::kMeanAbsoluteError},
    {"MAE", MetricKind::kMeanAbsoluteError},
    {"RootMeanSquaredError", MetricKind::kRootMeanSquaredError},
    {"root_mean_squared_error", MetricKind::kRootMeanSquaredError},
}};
constexpr std::string_view kKnownMetrics =
    "accuracy, sparse_categorical_accuracy, categorical_accuracy, binary_accuracy, mse, mae, RootMeanSquaredError";

// The name Keras logs when a metric object has none.
std::string_view default_name(MetricKind kind) {
  switch (kind) {
    case MetricKind::kSparseCategoricalAccuracy:
      return "sparse_categorical_accuracy";
    case MetricKind::kCategoricalAccuracy:
      return "categorical_accuracy";
    case MetricKind::kBinaryAccuracy:
      return "binary_accuracy";
    case MetricKind::kMeanSquaredError:
      return "mean_squared_error";
    case MetricKind::kMeanAbsoluteError:
      return "mean_absolute_error";
    case MetricKind::kRootMeanSquaredError:
      return "root_mean_squared_error";
  }
  return "";
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool one_unit(const Architecture& architecture) {
  return architecture.output_shape().size() == 1 && architecture.output_shape()[0] == 1;
}
bool many_units(const Architecture& architecture) {
  return architecture.output_shape().size() == 1 && architecture.output_shape()[0] > 1;
}

std::string_view loss_name(LossKind kind) {
  return std::ranges::find_if(
             kLosses, [&](const auto& n) { return n.kind == kind && n.text.find('_') != std::string_view::npos; })
      ->text;
}

void require_fit(const Cursor& cursor, const Loss& loss, const Architecture& architecture) {
  const std::string shape = to_string(architecture.output_shape());
  const std::string_view name = loss_name(loss.kind);
  const Activation last = final_activation(architecture);
  const bool choice = is_classification(loss) && loss.kind != LossKind::kBinaryCrossentropy;
  if (choice && !many_units(architecture)) {
    return cursor.fail(Code::kInvalidArgument,
                       std::format("{} wants one output for each class, [2] or more, but the model gives rows of shape "
                                   "{}{}",
                                   name, shape,
                                   one_unit(architecture) ? "; for one unit use binary_crossentropy"
                                                          : "; add Flatten or GlobalAveragePooling2D before the end"));
  }
  if (!choice && !one_unit(architecture)) {
    return cursor.fail(
        Code::kInvalidArgument,
        std::format("{} compares with one target value a row, so the output must have shape [1], but "
                    "the model gives {}{}",
                    name, shape, many_units(architecture) ? "; for classes use sparse_categorical_crossentropy" : ""));
  }
  if (!is_classification(loss)) return;
  const Activation wanted = choice ? Activation::kSoftmax : Activation::kSigmoid;
  const std::string_view wanted_name = choice ? "softmax" : "sigmoid";
  if (!loss.from_logits && last != wanted) {
    return cursor.fail(Code::kInvalidArgument,
                       std::format("{} wants probabilities, but the last layer gives no probabilities: add activation "
                                   "{}, or set from_logits",
                                   name, wanted_name));
  }
  if (loss.from_logits && (last == Activation::kSoftmax || last == Activation::kSigmoid)) {
    cursor.fail(Code::kInvalidArgument,
                std::format("{} is set to from_logits, but the last layer already gives probabilities ({}): leave "
                            "out one of them",
                            name, last == Activation::kSoftmax ? "softmax" : "sigmoid"));
  }
}

void read_loss_settings(const KerasObject& object, Loss& out) {
  ObjectReader in = object.settings();
  in.ignore({"name", "dtype", "fn"});
  if (is_classification(out)) {
    out.from_logits = in.boolean("from_logits", false);
    if (out.kind != LossKind::kSparseCategoricalCrossentropy) {
      out.label_smoothing = in.number("label_smoothing", {.min = 0, .max = 1}, 0.0);
    }
    in.only("axis", -1, "only the last axis is taken");
  }
  in.only("ignore_class", nullptr, "ignoring a class is not supported");
  const std::string reduction = in.text("reduction", "sum_over_batch_size");
  // Without sample weights these are all the mean; "auto" is Keras 2's.
  if (reduction != "sum_over_batch_size" && reduction != "auto" && reduction != "mean" &&
      reduction != "mean_with_sample_weight") {
    in.report().add(
        in.path_of("reduction"), Code::kUnsupported,
        std::format("only the mean over the batch (sum_over_batch_size) is taken, got '{}'", printable(reduction)));
  }
  in.finish();
}

void flatten(const Cursor& cursor, std::vector<Cursor>& out, int depth = 0) {
  if (!cursor.value().is_array() || depth > 2) return out.push_back(cursor);
  for (const Cursor& item : cursor.items()) flatten(item, out, depth + 1);
}

// Keras' rule: the last axis of the output decides, then how the labels are written; here they are always class
// numbers, which the trainer writes as one-hot rows for categorical cross-entropy alone.
MetricKind accuracy_for(const Architecture& architecture, const Loss& loss) {
  if (one_unit(architecture)) return MetricKind::kBinaryAccuracy;
  return loss.kind == LossKind::kCategoricalCrossentropy ? MetricKind::kCategoricalAccuracy
                                                         : MetricKind::kSparseCategoricalAccuracy;
}

MetricSpec read_metric(const Cursor& cursor, const Architecture& architecture, const Loss& loss) {
  MetricSpec out;
  const KerasObject object = read_object(cursor, "metric");
  if (cursor.report().failed()) return out;
  const std::string low = lower(object.name);
  if (object.is_name_only && (low == "accuracy" || low == "acc")) {
    out.kind = accuracy_for(architecture, loss);
    out.name = object.name;
    return out;
  }
  const auto* known = std::ranges::find(kMetrics, object.name, &Name<MetricKind>::text);
  if (known == kMetrics.end()) {
    object.refuse("metric", kKnownMetrics);
    return out;
  }
  out.kind = known->kind;
  ObjectReader in = object.settings();
  out.name = in.text("name", object.is_name_only ? object.name : std::string(default_name(out.kind)));
  in.ignore({"dtype", "fn"});
  if (out.kind == MetricKind::kBinaryAccuracy) {
    in.only("threshold", 0.5, "only the threshold 0.5 is supported");
  }
  in.finish();

  const bool of_classes =
      out.kind == MetricKind::kSparseCategoricalAccuracy || out.kind == MetricKind::kCategoricalAccuracy;
  if (of_classes ? !many_units(architecture) : !one_unit(architecture)) {
    cursor.fail(Code::kInvalidArgument,
                std::format("the metric {} wants an output of shape {}, but the model gives {}", printable(object.name),
                            of_classes ? "[2] or more" : "[1]", to_string(architecture.output_shape())));
  }
  return out;
}

}  // namespace

bool is_classification(const Loss& loss) {
  return loss.kind != LossKind::kMeanSquaredError && loss.kind != LossKind::kMeanAbsoluteError;
}

Activation final_activation(const Architecture& architecture) {
  for (auto layer = architecture.layers.rbegin(); layer != architecture.layers.rend(); ++layer) {
    if (const auto* dense = std::get_if<Dense>(&layer->kind)) return dense->activation;
    if (const auto* conv = std::get_if<Conv2D>(&layer->kind)) return conv->activation;
    if (const auto* activation = std::get_if<ActivationLayer>(&layer->kind)) {
      if (activation->activation != Activation::kLinear) return activation->activation;
      continue;
    }
    // A change of shape leaves probabilities what they are as long as the classes stay together.
    const bool reshapes = std::holds_alternative<Flatten>(layer->kind) || std::holds_alternative<Reshape>(layer->kind);
    if (!reshapes || layer->input_shape.back() != layer->output_shape.back()) return Activation::kLinear;
  }
  return Activation::kLinear;
}

bool higher_is_better(MetricKind kind) {
  return kind == MetricKind::kSparseCategoricalAccuracy || kind == MetricKind::kCategoricalAccuracy ||
         kind == MetricKind::kBinaryAccuracy;
}

Loss read_loss(const Cursor& given, const Architecture& architecture) {
  Loss out;
  Cursor cursor = given;
  if (cursor.value().is_array()) {  // Keras takes a list with one loss for each output
    const auto items = cursor.items();
    if (items.size() != 1) {
      cursor.fail(Code::kInvalidArgument,
                  std::format("the model has one output: wanted one loss, got {}", items.size()));
      return out;
    }
    cursor = items[0];
  }
  const KerasObject object = read_object(cursor, "loss");
  if (cursor.report().failed()) return out;
  const std::string low = lower(object.name);
  if (object.is_name_only && (low == "crossentropy" || low == "ce")) {
    out.kind = one_unit(architecture) ? LossKind::kBinaryCrossentropy : LossKind::kSparseCategoricalCrossentropy;
  } else if (const auto* known = std::ranges::find(kLosses, object.name, &Name<LossKind>::text);
             known != kLosses.end()) {
    out.kind = known->kind;
  } else {
    object.refuse("loss", kKnownLosses);
    return out;
  }
  read_loss_settings(object, out);
  if (!cursor.report().failed()) require_fit(cursor, out, architecture);
  return out;
}

std::vector<MetricSpec> read_metrics(const Cursor& cursor, const Architecture& architecture, const Loss& loss) {
  std::vector<MetricSpec> out;
  std::vector<Cursor> flat;
  flatten(cursor, flat);
  for (const Cursor& one : flat) {
    MetricSpec metric = read_metric(one, architecture, loss);
    if (cursor.report().failed()) return out;
    const bool taken = std::ranges::find(out, metric.name, &MetricSpec::name) != out.end();
    if (taken || metric.name == "loss" || metric.name == "learning_rate" || metric.name.starts_with("val_") ||
        metric.name.empty() || metric.name.size() > 128) {
      one.fail(Code::kInvalidArgument, std::format("a metric cannot be logged as '{}'{}", printable(metric.name),
                                                   taken ? ": another one is" : ""));
      return out;
    }
    out.push_back(std::move(metric));
  }
  return out;
}

}  // namespace slipway::keras

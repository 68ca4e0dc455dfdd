#include "lib/keras/callback_reader.h"

#include <algorithm>
#include <cmath>

#include "lib/keras/json_text.h"
#include "lib/keras/keras_object.h"
#include "lib/keras/objective.h"

namespace slipway::keras {
namespace {

constexpr std::size_t kMaxCallbacks = 100;
constexpr IntegerRange kEpochs{.min = 0, .max = 1'000'000};

// What a callback may watch.
struct Logged {
  const std::vector<MetricSpec>& metrics;
  bool has_validation;
  bool has_learning_rate;  // ReduceLROnPlateau writes it into the logs, for itself and those after it

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> out{"loss"};
    for (const MetricSpec& metric : metrics) out.push_back(metric.name);
    if (has_validation) {
      const std::size_t own = out.size();
      for (std::size_t i = 0; i < own; ++i) out.push_back("val_" + out[i]);
    }
    if (has_learning_rate) out.emplace_back("learning_rate");
    return out;
  }
};

std::string read_monitor(ObjectReader& in, const Logged& logged) {
  std::string monitor = in.text("monitor", "val_loss");
  const auto names = logged.names();
  if (in.report().failed() || std::ranges::find(names, monitor) != names.end()) return monitor;
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  const bool lacks_validation = monitor.starts_with("val_") && !logged.has_validation;
  in.report().add(in.path_of("monitor"), Code::kInvalidArgument,
                  std::format("'{}' will not be logged{}; available: {}", printable(monitor),
                              lacks_validation ? " without fit.validation_split" : "", list));
  return monitor;
}

// Resolves "mode" as Keras does: the loss falls, a metric goes its own way.
bool read_maximize(ObjectReader& in, std::string_view monitor, const Logged& logged) {
  const std::string mode = in.text("mode", "auto");
  if (mode == "min" || mode == "max") return mode == "max";
  if (mode != "auto") {
    in.report().add(in.path_of("mode"), Code::kInvalidArgument,
                    std::format("wanted 'auto', 'min' or 'max', got '{}'", printable(mode)));
    return false;
  }
  const std::string_view name = monitor.starts_with("val_") ? monitor.substr(4) : monitor;
  if (name == "loss") return false;
  const auto metric = std::ranges::find(logged.metrics, name, &MetricSpec::name);
  if (metric != logged.metrics.end()) return higher_is_better(metric->kind);
  in.report().add(
      in.path_of("mode"), Code::kInvalidArgument,
      std::format("whether '{}' should rise or fall is not known: set mode to 'min' or 'max'", printable(monitor)));
  return false;
}

ReduceLROnPlateau read_reduce_lr(ObjectReader& in, const Logged& logged) {
  ReduceLROnPlateau out;
  out.monitor = read_monitor(in, logged);
  out.maximize = read_maximize(in, out.monitor, logged);
  out.factor = in.number("factor", {.min = 0, .max = 1, .open_max = true}, 0.1);
  out.patience = in.integer("patience", kEpochs, 10);
  // Keras takes the size of min_delta and drops its sign.
  out.min_delta = std::abs(in.number(in.has("epsilon") && !in.has("min_delta") ? "epsilon" : "min_delta", {}, 1e-4));
  out.cooldown = in.integer("cooldown", kEpochs, 0);
  out.min_lr = in.number("min_lr", {.min = 0}, 0.0);
  return out;
}

EarlyStopping read_early_stopping(ObjectReader& in, const Logged& logged) {
  EarlyStopping out;
  out.monitor = read_monitor(in, logged);
  out.maximize = read_maximize(in, out.monitor, logged);
  out.min_delta = std::abs(in.number("min_delta", {}, 0.0));
  out.patience = in.integer("patience", kEpochs, 0);
  if (const auto baseline = in.child("baseline")) out.baseline = baseline->number({});
  out.restore_best_weights = in.boolean("restore_best_weights", false);
  out.start_from_epoch = in.integer("start_from_epoch", kEpochs, 0);
  return out;
}

}  // namespace

std::vector<Callback> read_callbacks(const Cursor& cursor, const std::vector<MetricSpec>& metrics,
                                     bool has_validation) {
  std::vector<Callback> out;
  const auto items = cursor.items();
  if (items.size() > kMaxCallbacks) {
    cursor.fail(Code::kInvalidArgument,
                std::format("wanted at most {} callbacks, got {}", kMaxCallbacks, items.size()));
    return out;
  }
  Logged logged{.metrics = metrics, .has_validation = has_validation, .has_learning_rate = false};
  for (const Cursor& item : items) {
    const KerasObject object = read_object(item, "callback");
    if (cursor.report().failed()) return out;
    ObjectReader in = object.settings();
    in.ignore({"verbose", "name"});
    if (object.name == "ReduceLROnPlateau") {
      logged.has_learning_rate = true;
      out.emplace_back(read_reduce_lr(in, logged));
    } else if (object.name == "EarlyStopping") {
      out.emplace_back(read_early_stopping(in, logged));
    } else if (object.name == "TerminateOnNaN") {
      in.ignore({"raise_error"});  // either way the job fails with NAN_LOSS
      out.emplace_back(TerminateOnNaN{});
    } else if (object.name == "ModelCheckpoint" || object.name == "BackupAndRestore") {
      cursor.report().add(
          object.name_path, Code::kUnsupported,
          std::format("{} is not needed: Slipway checkpoints every checkpoint_seconds and publishes the "
                      "result as a version; to keep the best weights use EarlyStopping with "
                      "restore_best_weights",
                      object.name));
    } else {
      object.refuse("callback", "ReduceLROnPlateau, EarlyStopping, TerminateOnNaN");
    }
    in.finish();
    if (cursor.report().failed()) return out;
  }
  return out;
}

}  // namespace slipway::keras

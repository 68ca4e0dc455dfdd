#include "lib/keras/job_spec.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <charconv>
#include <set>

#include "lib/base/name.h"
#include "lib/keras/architecture.h"
#include "lib/keras/callback_reader.h"
#include "lib/keras/json_cursor.h"
#include "lib/keras/json_text.h"
#include "lib/keras/objective.h"
#include "lib/keras/optimizer.h"

namespace slipway::keras {
namespace {

constexpr double kMinCheckpointSeconds = 0.1;

void require_name(Report& report, const std::string& path, std::string_view text) {
  if (slipway::is_name(text)) return;
  report.add(path, Code::kInvalidArgument,
             std::format("'{}' is no name: wanted 1 to 128 letters, digits, '.', '_' or '-', the first a letter or a "
                         "digit",
                         printable(text)));
}

// "name" or "name@3".
void read_data_name(const Cursor& cursor, DataSpec& out) {
  const std::string text = cursor.text();
  const std::size_t at = text.find('@');
  out.dataset = text.substr(0, at);
  require_name(cursor.report(), cursor.path(), out.dataset);
  if (at == std::string::npos) return;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + at + 1, end, out.version);
  if (error != std::errc() || stop != end || out.version == 0) {
    cursor.fail(Code::kInvalidArgument, std::format("wanted a version of at least 1 after '@', got '{}'",
                                                    printable(std::string_view(text).substr(at + 1))));
  }
}

DataSpec read_data(const Cursor& cursor) {
  DataSpec out;
  if (!cursor.value().is_object()) {
    read_data_name(cursor, out);
    return out;
  }
  ObjectReader in(cursor);
  out.dataset = in.text("name");
  require_name(cursor.report(), in.path_of("name"), out.dataset);
  if (const auto version = in.child("version")) {
    out.version = static_cast<std::uint64_t>(version->integer({.min = 1}));
  }
  out.target = in.text("target", "");
  if (const auto features = in.child("features")) {
    const auto items = features->items();
    if (items.empty()) features->fail(Code::kInvalidArgument, "wanted at least one column; leave it out to take all");
    std::set<std::string, std::less<>> seen;
    for (const Cursor& item : items) {
      std::string name = item.text();
      if (!seen.insert(name).second) {
        item.fail(Code::kInvalidArgument, std::format("column '{}' stands here twice", printable(name)));
      }
      if (!out.target.empty() && name == out.target) {
        item.fail(Code::kInvalidArgument,
                  std::format("'{}' is the target, so it cannot be a feature", printable(name)));
      }
      out.features.push_back(std::move(name));
    }
  }
  in.finish();
  return out;
}

Fit read_fit(const std::optional<Cursor>& cursor) {
  Fit out;
  if (!cursor) return out;
  ObjectReader in(*cursor);
  out.epochs = in.integer("epochs", {.min = 1, .max = 100'000}, out.epochs);
  out.batch_size = in.integer("batch_size", {.min = 1, .max = 1 << 20}, out.batch_size);
  out.validation_split = in.number("validation_split", {.min = 0, .max = 1, .open_max = true}, 0.0);
  out.shuffle = in.boolean("shuffle", true);
  in.ignore({"verbose"});
  in.only("initial_epoch", 0, "starting at a later epoch is not supported");
  in.only("validation_freq", 1, "validation is after every epoch");
  in.only("class_weight", nullptr, "class weights are not supported");
  in.only("sample_weight", nullptr, "sample weights are not supported");
  in.only("steps_per_epoch", nullptr, "an epoch is one pass over the training rows");
  in.only("validation_steps", nullptr, "validation takes all its rows");
  in.only("validation_batch_size", nullptr, "validation uses batches of its own size");
  in.only("validation_data", nullptr, "validation rows are the last part of the data set: use validation_split");
  in.only("callbacks", nullptr, "callbacks stand beside fit, at $.callbacks");
  in.finish();
  return out;
}

void read_compile(const Cursor& cursor, JobSpec& spec) {
  ObjectReader in(cursor);
  if (const auto optimizer = in.child("optimizer")) {
    spec.optimizer = read_optimizer(*optimizer);
  } else {
    spec.optimizer = Optimizer{.kind = Optimizer::Kind::kRmsprop};  // Keras' own default
  }
  spec.loss =
      read_loss(in.required("loss", "a loss such as 'sparse_categorical_crossentropy' or 'mse'"), spec.architecture);
  if (const auto metrics = in.child("metrics")) spec.metrics = read_metrics(*metrics, spec.architecture, spec.loss);
  const boost::json::value one(boost::json::array{1});
  if (const auto weights = in.child("loss_weights")) {
    const auto& value = weights->value();
    if (value != one && value != boost::json::value(boost::json::array{1.0}) && value != boost::json::value(1) &&
        value != boost::json::value(1.0)) {
      weights->fail(Code::kUnsupported, "loss weights are not supported: there is one loss");
    }
  }
  in.only("weighted_metrics", boost::json::array(), "weighted metrics are not supported: rows have no weights");
  // How the step is compiled and called is Slipway's affair.
  in.ignore({"run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss"});
  in.finish();
}

void read_document(const Cursor& document, JobSpec& spec, std::optional<boost::json::value>& nested) {
  Report& report = document.report();
  ObjectReader in(document);
  {
    ObjectReader publish(in.required("publish", "an object such as {\"model\": \"fashion\"}"));
    spec.publish_model = publish.text("model");
    require_name(report, publish.path_of("model"), spec.publish_model);
    publish.finish();
  }
  spec.data = read_data(in.required("dataset", "a data set's name"));
  if (const auto seed = in.child("seed")) {
    spec.seed = seed->unsigned_integer();
    spec.seed_given = true;
  }
  spec.fit = read_fit(in.child("fit"));
  spec.checkpoint_seconds = in.number("checkpoint_seconds", {.min = 0, .max = 1e6}, 0.0);
  // Each checkpoint is stored and synced: without a pause a job would fill the registry's disk.
  if (spec.checkpoint_seconds > 0 && spec.checkpoint_seconds < kMinCheckpointSeconds) {
    report.add(in.path_of("checkpoint_seconds"), Code::kInvalidArgument,
               std::format("{} is too short: wanted at least {} seconds, or 0 for what the trainer is set to",
                           spec.checkpoint_seconds, kMinCheckpointSeconds));
  }
  Cursor model = in.required("model", "a Keras Sequential document");
  const auto compile = in.child("compile");
  const auto callbacks = in.child("callbacks");
  in.finish();
  if (report.failed()) return;

  if (model.value().is_string()) {  // what to_json() returns, not parsed again before it was put in here
    auto parsed = read_json(model.text(), model.path());
    if (!parsed) return report.add(parsed.error().path, parsed.error().code, parsed.error().message);
    nested = std::move(*parsed);
    model = Cursor(*nested, model.path(), report);
  }
  ModelDocument read = read_model(model);
  if (report.failed()) return;
  spec.architecture = std::move(read.architecture);

  if (!compile && !read.compile_config) {
    return report.add("$.compile", Code::kInvalidArgument,
                      "missing: wanted optimizer, loss and metrics; the model carries no compile_config either");
  }
  const Cursor& chosen = compile ? *compile : *read.compile_config;
  spec.compile_path = chosen.path();
  read_compile(chosen, spec);
  if (report.failed() || !callbacks) return;
  spec.callbacks = read_callbacks(*callbacks, spec.metrics, spec.fit.validation_split > 0);
}

}  // namespace

Result<JobSpec> parse_job(std::string_view document) {
  const auto value = read_json(document, "$");
  if (!value) return std::unexpected(value.error());
  Report report;
  JobSpec spec;
  std::optional<boost::json::value> nested;  // outlives the cursors into it
  read_document(Cursor(*value, "$", report), spec, nested);
  if (report.failed()) return std::unexpected(report.take());
  return spec;
}

}  // namespace slipway::keras

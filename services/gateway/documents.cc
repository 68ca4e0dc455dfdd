#include "services/gateway/documents.h"

#include <cmath>
#include <ctime>
#include <set>
#include <utility>

#include "lib/base/json_text.h"
#include "lib/base/sha256.h"
#include "lib/tensor/dtype.h"
#include "lib/tensor/shape.h"
#include "services/gateway/json_reader.h"

namespace slipway::gateway {
namespace {

// JSON has no NaN: null.
json::value number_json(double value) { return std::isfinite(value) ? json::value(value) : json::value(nullptr); }

json::object to_json(const std::vector<Metric>& metrics) {
  json::object object;
  for (const auto& metric : metrics) object[metric.name] = number_json(metric.value);
  return object;
}

json::array shape_json(const std::vector<std::int64_t>& shape) { return json::array(shape.begin(), shape.end()); }

json::value text_or_null(const std::string& text) { return text.empty() ? json::value(nullptr) : json::value(text); }

// What an enumerator of a later release is shown as.
std::string unknown_name(unsigned number) { return std::format("unknown({})", number); }

std::string dtype_text(DType dtype) {
  return is_known(dtype) ? std::string(dtype_name(dtype)) : unknown_name(std::to_underlying(dtype));
}

json::array specs_json(const std::vector<TensorSpec>& specs) {
  json::array array;
  for (const auto& spec : specs)
    array.push_back({{"name", spec.name}, {"dtype", dtype_text(spec.dtype)}, {"shape", shape_json(spec.shape)}});
  return array;
}

Result<std::vector<TensorSpec>> parse_specs(const json::value& value, const std::string& path) {
  const auto* array = value.if_array();
  if (array == nullptr) return fail_at(path, Code::kInvalidArgument, "wanted a list of tensors");
  std::vector<TensorSpec> specs;
  std::set<std::string> names;
  for (std::size_t i = 0; i < array->size(); ++i) {
    const std::string at = std::format("{}[{}]", path, i);
    const auto* object = (*array)[i].if_object();
    if (object == nullptr) return fail_at(at, Code::kInvalidArgument, "wanted an object with name, dtype and shape");
    TensorSpec spec;
    for (const auto& [key, member] : *object) {
      if (key == "name") {
        const auto* text = member.if_string();
        if (text == nullptr || text->empty()) return fail_at(at + ".name", Code::kInvalidArgument, "wanted a name");
        spec.name = std::string_view(*text);
      } else if (key == "dtype") {
        const auto* text = member.if_string();
        const auto dtype = text == nullptr ? std::nullopt : dtype_from_name(std::string_view(*text));
        if (!dtype)
          return fail_at(at + ".dtype", Code::kInvalidArgument,
                         "wanted one of f32, f64, f16, bf16, i64, i32, i16, i8, u8, b8");
        spec.dtype = *dtype;
      } else if (key == "shape") {
        const auto* sizes = member.if_array();
        if (sizes == nullptr || sizes->size() > 16)
          return fail_at(at + ".shape", Code::kInvalidArgument, "wanted a list of at most 16 sizes, -1 for a free one");
        for (const auto& size : *sizes) {
          const auto* number = size.if_int64();
          if (number == nullptr || *number < -1 || *number == 0 || *number > 1LL << 40) {
            return fail_at(at + ".shape", Code::kInvalidArgument, "wanted sizes of at least 1, or -1 for a free one");
          }
          spec.shape.push_back(*number);
        }
      } else {
        return fail_at(std::format("{}.{}", at, std::string_view(key)), Code::kInvalidArgument,
                       "unknown member; there are name, dtype and shape");
      }
    }
    for (const char* key : {"name", "dtype", "shape"}) {
      if (!object->contains(key)) return fail_at(std::format("{}.{}", at, key), Code::kInvalidArgument, "is missing");
    }
    if (!names.insert(spec.name).second)
      return fail_at(at + ".name", Code::kInvalidArgument, std::format("'{}' comes twice", spec.name));
    specs.push_back(std::move(spec));
  }
  return specs;
}

// Boost.JSON keeps the last of two members of one name; which was meant is anybody's guess.
Result<void> check_keys(JsonReader& reader, const std::string& path) {
  if (reader.peek() == '{') {
    std::set<std::string> seen;
    return reader.object([&](const std::string& key) -> Result<void> {
      const std::string at = std::format("{}.{}", path, key);
      if (!seen.insert(key).second) return fail_at(at, Code::kInvalidArgument, "the key comes twice");
      return check_keys(reader, at);
    });
  }
  if (reader.peek() == '[') {
    std::size_t index = 0;
    return reader.array([&] { return check_keys(reader, std::format("{}[{}]", path, index++)); });
  }
  return reader.skip().transform([](std::string_view) {});
}

}  // namespace

json::value time_json(std::int64_t unix_ms) {
  if (unix_ms == 0) return nullptr;
  const std::time_t seconds = static_cast<std::time_t>(std::floor(static_cast<double>(unix_ms) / 1000));
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return json::value(std::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                                 parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                                 unix_ms - static_cast<std::int64_t>(seconds) * 1000));
}

json::value digest_json(const Digest& digest) {
  return digest.empty() ? json::value(nullptr) : json::value("sha256:" + to_hex(digest));
}

std::string state_name(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "QUEUED";
    case JobState::kStarting:
      return "STARTING";
    case JobState::kRunning:
      return "RUNNING";
    case JobState::kRetrying:
      return "RETRYING";
    case JobState::kSucceeded:
      return "SUCCEEDED";
    case JobState::kFailed:
      return "FAILED";
    case JobState::kCancelled:
      return "CANCELLED";
  }
  return unknown_name(std::to_underlying(state));
}

json::object to_json(const StoredFile& file) {
  return {{"name", file.name}, {"size_bytes", file.size_bytes}, {"digest", digest_json(file.digest)}};
}

json::object to_json(const Dataset& dataset) {
  json::object object{{"name", dataset.name},
                      {"version", dataset.version},
                      {"digest", digest_json(dataset.digest)},
                      {"format", dataset.format},
                      {"rows", dataset.rows},
                      {"test_rows", dataset.test_rows},
                      {"row_shape", shape_json(dataset.row_shape)},
                      {"dtype", dtype_text(dataset.dtype)},
                      {"classes", dataset.classes},
                      {"size_bytes", dataset.size_bytes},
                      {"created_at", time_json(dataset.created_ms)},
                      {"actor", text_or_null(dataset.actor)}};
  json::array columns;
  for (const auto& column : dataset.columns) {
    json::object entry{{"name", column.name}, {"type", column.text ? "text" : column.integral ? "integer" : "number"}};
    if (column.text) {
      entry["categories"] = json::array(column.categories.begin(), column.categories.end());
    } else {
      entry["min"] = number_json(column.min);
      entry["max"] = number_json(column.max);
    }
    columns.push_back(std::move(entry));
  }
  object["features"] = slipway::element_count(dataset.row_shape).value_or(0);
  object["columns"] = std::move(columns);
  json::array files;
  for (const auto& file : dataset.files) files.push_back(to_json(file));
  object["files"] = std::move(files);
  return object;
}

json::object to_json(const Progress& progress) {
  return {{"epoch", progress.epoch},
          {"epochs", progress.epochs},
          {"step", progress.step},
          {"steps", progress.steps},
          {"rows_per_second", number_json(progress.rows_per_second)},
          {"seconds_left", progress.seconds_left < 0 ? json::value(nullptr) : number_json(progress.seconds_left)},
          {"learning_rate", number_json(progress.learning_rate)},
          {"metrics", to_json(progress.metrics)}};
}

json::object to_json(const Job& job, bool with_document) {
  json::object object{
      {"id", job.id.text()},
      {"state", state_name(job.state)},
      {"model", job.model},
      {"dataset", job.dataset},
      {"dataset_version", job.dataset_version},
      {"dataset_digest", digest_json(job.dataset_digest)},
      {"spec_digest", digest_json(job.spec_digest)},
      {"seed", job.seed},
      {"attempt", job.attempt},
      {"cancel_requested", job.cancel_requested},
      {"reason", text_or_null(job.reason)},
      {"message", text_or_null(job.message)},
      {"created_at", time_json(job.created_ms)},
      {"started_at", time_json(job.started_ms)},
      {"finished_at", time_json(job.finished_ms)},
      {"version", job.version == 0 ? json::value(nullptr) : json::value(job.version)},
      {"worker", text_or_null(job.worker.text())},
      {"request_id", text_or_null(job.request_id)},
      {"actor", text_or_null(job.actor)},
      {"progress", job.progress.epochs == 0 ? json::value(nullptr) : json::value(to_json(job.progress))}};
  if (with_document) {
    boost::system::error_code ec;
    json::value document = json::parse(job.document, ec);
    object["document"] = ec ? json::value(nullptr) : std::move(document);
  }
  return object;
}

json::object to_json(const JobEvent& event) {
  json::object object{
      {"id", event.id}, {"at", time_json(event.at_ms)}, {"kind", event.kind}, {"state", state_name(event.state)}};
  if (!event.message.empty()) object["message"] = event.message;
  if (event.progress.epochs != 0) object["progress"] = to_json(event.progress);
  return object;
}

json::object to_json(const Model& model) {
  json::object aliases;
  for (const auto& alias : model.aliases) aliases[alias.name] = alias.version;
  return {{"name", model.name},
          {"latest", model.latest == 0 ? json::value(nullptr) : json::value(model.latest)},
          {"aliases", std::move(aliases)},
          {"served", !model.unloaded},
          {"served_set_by", model.serving_actor.empty() ? json::value(nullptr) : json::value(model.serving_actor)},
          {"served_set_at", time_json(model.serving_at_ms)},
          {"created_at", time_json(model.created_ms)},
          {"updated_at", time_json(model.updated_ms)}};
}

json::object to_json(const Signature& signature) {
  return {{"inputs", specs_json(signature.inputs)},
          {"outputs", specs_json(signature.outputs)},
          {"classes", json::array(signature.classes.begin(), signature.classes.end())},
          {"logits", signature.logits}};
}

json::object to_json(const Version& version) {
  json::array files;
  for (const auto& file : version.files) files.push_back(to_json(file));
  json::value lineage = nullptr;
  if (!version.lineage.job.empty()) {
    lineage = {{"job", version.lineage.job.text()},
               {"dataset", version.lineage.dataset},
               {"dataset_version", version.lineage.dataset_version},
               {"dataset_digest", digest_json(version.lineage.dataset_digest)},
               {"spec_digest", digest_json(version.lineage.spec_digest)},
               {"seed", version.lineage.seed}};
  }
  json::object object{{"model", version.model},
                      {"version", version.number},
                      {"signature", to_json(version.signature)},
                      {"metrics", to_json(version.metrics)},
                      {"lineage", std::move(lineage)},
                      {"files", std::move(files)},
                      {"uploaded", version.uploaded},
                      {"created_at", time_json(version.created_ms)},
                      {"actor", text_or_null(version.actor)}};
  if (!version.quarantined.empty()) object["quarantined"] = {{"reason", version.quarantined}};
  return object;
}

json::object to_json(const Quarantine& quarantine) {
  return {{"digest", digest_json(quarantine.digest)},
          {"model", quarantine.model},
          {"version", quarantine.version},
          {"reason", quarantine.reason},
          {"at", time_json(quarantine.at_ms)}};
}

json::object to_json(const AliasMove& move) {
  return {{"number", move.number == 0 ? json::value(nullptr) : json::value(move.number)},
          {"model", move.model},
          {"alias", move.alias},
          {"from", move.from == 0 ? json::value(nullptr) : json::value(move.from)},
          {"to", move.to == 0 ? json::value(nullptr) : json::value(move.to)},
          {"reason", text_or_null(move.reason)},
          {"actor", text_or_null(move.actor)},
          {"at", time_json(move.at_ms)}};
}

std::string list_json(json::array items, json::value next) {
  return slipway::json_text(json::object{{"items", std::move(items)}, {"next", std::move(next)}});
}

Result<json::object> parse_document(std::string_view text) {
  json::parse_options options;
  options.max_depth = 32;
  boost::system::error_code ec;
  json::stream_parser parser({}, options);
  const std::size_t used = parser.write_some(text.data(), text.size(), ec);
  if (!ec && used < text.size()) ec = json::error::extra_data;
  if (!ec) parser.finish(ec);
  if (ec) return fail_at("$", Code::kInvalidArgument, std::format("not JSON: {} at byte {}", ec.message(), used));
  json::value value = parser.release();
  if (!value.is_object()) return fail_at("$", Code::kInvalidArgument, "wanted a JSON object");
  JsonReader reader(text);
  if (auto once = check_keys(reader, "$"); !once) return std::unexpected(once.error());
  return std::move(value.get_object());
}

Result<Signature> parse_signature(std::string_view text) {
  auto document = parse_document(text);
  if (!document) return std::unexpected(document.error());
  Signature signature;
  for (const auto& [key, value] : *document) {
    if (key == "inputs" || key == "outputs") {
      auto specs = parse_specs(value, std::format("$.{}", std::string_view(key)));
      if (!specs) return std::unexpected(specs.error());
      (key == "inputs" ? signature.inputs : signature.outputs) = std::move(*specs);
    } else if (key == "classes") {
      const auto* names = value.if_array();
      if (names == nullptr) return fail_at("$.classes", Code::kInvalidArgument, "wanted a list of class names");
      for (const auto& name : *names) {
        if (!name.is_string()) return fail_at("$.classes", Code::kInvalidArgument, "wanted a list of class names");
        signature.classes.emplace_back(name.get_string());
      }
    } else if (key == "logits") {
      if (!value.is_bool()) return fail_at("$.logits", Code::kInvalidArgument, "wanted true or false");
      signature.logits = value.get_bool();
    } else {
      return fail_at(std::format("$.{}", std::string_view(key)), Code::kInvalidArgument,
                     "unknown member; there are inputs, outputs, classes and logits");
    }
  }
  if (signature.inputs.empty())
    return fail_at("$.inputs", Code::kInvalidArgument, "a signature has at least one input");
  return signature;
}

}  // namespace slipway::gateway

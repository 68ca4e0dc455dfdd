#include "services/trainer/training_state.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <format>

namespace slipway::trainer {
namespace {

namespace json = boost::json;

constexpr std::int64_t kFormat = 1;

// As text: the shortest that reads back to the same bits, and it can be "inf" or "nan".
json::value number(double value) { return json::string(std::format("{}", value)); }

double to_double(const json::value& value) {
  const std::string_view text = value.as_string();
  double result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error != std::errc() || end != text.data() + text.size()) throw std::invalid_argument("not a number");
  return result;
}

json::array numbers(const std::vector<double>& values) {
  json::array result;
  for (const double v : values) result.push_back(number(v));
  return result;
}

std::vector<double> to_doubles(const json::value& value) {
  std::vector<double> result;
  for (const auto& v : value.as_array()) result.push_back(to_double(v));
  return result;
}

std::int64_t count(const json::value& value) {
  const std::int64_t result = value.to_number<std::int64_t>();
  if (result < 0) throw std::invalid_argument("a negative count");
  return result;
}

}  // namespace

std::string write_state(const TrainingState& state) {
  json::array history;
  for (const auto& logs : state.history) {
    json::array epoch;
    for (const auto& metric : logs) epoch.push_back({{"name", metric.name}, {"value", number(metric.value)}});
    history.push_back(std::move(epoch));
  }
  const json::object root = {
      {"format", kFormat},
      {"identity", state.identity},
      {"threads", state.threads},
      {"epoch", state.epoch},
      {"step", state.step},
      {"optimizer_steps", state.optimizer_steps},
      {"learning_rate", number(state.learning_rate)},
      {"done", state.done},
      {"means",
       {{"rows", number(state.means.rows)},
        {"loss", number(state.means.loss)},
        {"metrics", numbers(state.means.metrics)},
        {"counts", numbers(state.means.counts)}}},
      {"callbacks", state.callbacks},
      {"history", history},
  };
  return json::serialize(root);
}

Result<TrainingState> read_state(std::string_view text) {
  try {
    const auto root = json::parse(text);
    if (root.at("format").to_number<std::int64_t>() != kFormat) {
      return fail(Code::kDataLoss, "a checkpoint of another format");
    }
    TrainingState state;
    state.identity = root.at("identity").as_string();
    state.threads = static_cast<int>(std::clamp<std::int64_t>(count(root.at("threads")), 1, 1024));
    state.epoch = count(root.at("epoch"));
    state.step = count(root.at("step"));
    state.optimizer_steps = count(root.at("optimizer_steps"));
    state.learning_rate = to_double(root.at("learning_rate"));
    state.done = root.at("done").as_bool();
    const auto& means = root.at("means");
    state.means = {to_double(means.at("rows")), to_double(means.at("loss")), to_doubles(means.at("metrics")),
                   to_doubles(means.at("counts"))};
    state.callbacks = root.at("callbacks").as_string();
    for (const auto& epoch : root.at("history").as_array()) {
      std::vector<Metric> logs;
      for (const auto& metric : epoch.as_array()) {
        logs.push_back({std::string(metric.at("name").as_string()), to_double(metric.at("value"))});
      }
      state.history.push_back(std::move(logs));
    }
    return state;
  } catch (const std::exception& e) {
    return fail(Code::kDataLoss, std::format("the state of a checkpoint: {}", e.what()));
  }
}

}  // namespace slipway::trainer

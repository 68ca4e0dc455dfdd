#include "lib/keras/callbacks.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>

#include "lib/keras/json_text.h"

namespace slipway::keras {
namespace {

namespace json = boost::json;

// Strictly better by more than min_delta. NaN is never better, nor is anything better than it.
bool improves(double value, double reference, double min_delta, bool maximize) {
  return maximize ? value - min_delta > reference : value + min_delta < reference;
}

std::optional<double> find(const std::vector<Metric>& logs, std::string_view name) {
  const auto found = std::ranges::find(logs, name, &Metric::name);
  if (found == logs.end()) return std::nullopt;
  return found->value;
}

std::string not_logged(std::string_view callback, std::string_view monitor, const std::vector<Metric>& logs) {
  std::string names;
  for (const Metric& metric : logs) names += (names.empty() ? "" : ", ") + metric.name;
  return std::format("{} watches '{}', which was not logged; there was: {}", callback, monitor, names);
}

// As text, since JSON has no NaN and no infinity.
std::string number_text(double value) { return std::format("{}", value); }

std::optional<double> to_number(const json::value* value) {
  if (value == nullptr || !value->is_string()) return std::nullopt;
  const std::string_view text = value->get_string();
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<std::int64_t> to_count(const json::value* value) {
  if (value == nullptr || !value->is_int64() || value->get_int64() < 0) return std::nullopt;
  return value->get_int64();
}

}  // namespace

CallbackState::CallbackState(std::vector<Callback> callbacks)
    : callbacks_(std::move(callbacks)), memories_(callbacks_.size()) {}

std::optional<std::size_t> CallbackState::restorer() const {
  for (std::size_t i = callbacks_.size(); i-- > 0;) {
    const auto* early = std::get_if<EarlyStopping>(&callbacks_[i]);
    if (early != nullptr && early->restore_best_weights) return i;
  }
  return std::nullopt;
}

void CallbackState::reduce(const ReduceLROnPlateau& callback, Memory& memory, std::vector<Metric>& logs,
                           EpochDecision& decision) const {
  const auto rate = std::ranges::find(logs, std::string_view("learning_rate"), &Metric::name);
  if (rate == logs.end()) {
    logs.push_back({.name = "learning_rate", .value = decision.learning_rate});
  } else {
    rate->value = decision.learning_rate;
  }
  const auto current = find(logs, callback.monitor);
  if (!current) {
    decision.warnings.push_back(not_logged("ReduceLROnPlateau", callback.monitor, logs));
    return;
  }
  if (memory.cooldown > 0) {
    --memory.cooldown;
    memory.wait = 0;
  }
  if (!memory.best || improves(*current, *memory.best, callback.min_delta, callback.maximize)) {
    memory.best = *current;
    memory.wait = 0;
    return;
  }
  if (memory.cooldown > 0) return;
  if (++memory.wait < callback.patience) return;
  // Keras holds the rate as float32, so a rate that was cut to min_lr compares equal to it.
  if (static_cast<float>(decision.learning_rate) <= static_cast<float>(callback.min_lr)) return;
  decision.learning_rate = std::max(decision.learning_rate * callback.factor, callback.min_lr);
  memory.cooldown = callback.cooldown;
  memory.wait = 0;
}

void CallbackState::stop_early(const EarlyStopping& callback, Memory& memory, std::int64_t epoch,
                               const std::vector<Metric>& logs, bool restores, EpochDecision& decision) const {
  const auto current = find(logs, callback.monitor);
  if (!current) {
    decision.warnings.push_back(not_logged("EarlyStopping", callback.monitor, logs));
    return;
  }
  if (epoch < callback.start_from_epoch) return;
  ++memory.wait;
  if (!memory.best || improves(*current, *memory.best, callback.min_delta, callback.maximize)) {
    memory.best = *current;
    memory.best_epoch = epoch;
    decision.is_best = decision.is_best || restores;
    if (!callback.baseline || improves(*current, *callback.baseline, callback.min_delta, callback.maximize)) {
      memory.wait = 0;
    }
    return;  // Keras does not stop in an epoch that improves, baseline or not
  }
  if (memory.wait < callback.patience || epoch == 0) return;
  if (!decision.stop) {
    decision.reason = std::format("{} has not improved for {} epochs (best {}, now {})", callback.monitor, memory.wait,
                                  *memory.best, *current);
  }
  decision.stop = true;
}

EpochDecision CallbackState::on_epoch_end(std::int64_t epoch, const std::vector<Metric>& logs, double learning_rate) {
  EpochDecision decision{.learning_rate = learning_rate, .stop = false, .reason = {}, .is_best = false, .warnings = {}};
  std::vector<Metric> seen = logs;
  const auto restorer_at = restorer();
  for (std::size_t i = 0; i < callbacks_.size(); ++i) {
    if (const auto* plateau = std::get_if<ReduceLROnPlateau>(&callbacks_[i])) {
      reduce(*plateau, memories_[i], seen, decision);
    } else if (const auto* early = std::get_if<EarlyStopping>(&callbacks_[i])) {
      stop_early(*early, memories_[i], epoch, seen, restorer_at == i, decision);
    }
  }
  stopped_ = stopped_ || decision.stop;
  return decision;
}

bool CallbackState::on_batch_loss(double loss) const {
  return !std::isfinite(loss) && std::ranges::any_of(callbacks_, [](const Callback& callback) {
    return std::holds_alternative<TerminateOnNaN>(callback);
  });
}

bool CallbackState::restores_best_weights() const { return best_epoch().has_value(); }

std::optional<std::int64_t> CallbackState::best_epoch() const {
  const auto at = restorer();
  return at ? memories_[*at].best_epoch : std::nullopt;
}

std::string CallbackState::save() const {
  json::array states;
  for (const Memory& memory : memories_) {
    json::object state;
    if (memory.best) state["best"] = number_text(*memory.best);
    if (memory.best_epoch) state["best_epoch"] = *memory.best_epoch;
    state["wait"] = memory.wait;
    state["cooldown"] = memory.cooldown;
    states.push_back(std::move(state));
  }
  return json::serialize(json::object{{"callbacks", std::move(states)}, {"stopped", stopped_}});
}

Result<void> CallbackState::restore(std::string_view saved) {
  const auto broken = [] { return fail(Code::kDataLoss, "the saved state of the callbacks is damaged"); };
  const auto document = read_json(saved, "$");
  if (!document || !document->is_object()) return broken();
  const json::value* states = document->get_object().if_contains("callbacks");
  const json::value* stopped = document->get_object().if_contains("stopped");
  if (states == nullptr || !states->is_array() || stopped == nullptr || !stopped->is_bool()) return broken();
  if (states->get_array().size() != callbacks_.size()) {
    return fail(Code::kDataLoss, std::format("the saved state is of {} callbacks, the job has {}",
                                             states->get_array().size(), callbacks_.size()));
  }
  std::vector<Memory> memories;
  for (const json::value& value : states->get_array()) {
    const json::object* state = value.if_object();
    if (state == nullptr) return broken();
    const auto wait = to_count(state->if_contains("wait"));
    const auto cooldown = to_count(state->if_contains("cooldown"));
    const json::value* best = state->if_contains("best");
    const json::value* best_epoch = state->if_contains("best_epoch");
    Memory memory{.best = to_number(best),
                  .wait = wait.value_or(0),
                  .cooldown = cooldown.value_or(0),
                  .best_epoch = to_count(best_epoch)};
    if (!wait || !cooldown || (best != nullptr && !memory.best) || (best_epoch != nullptr && !memory.best_epoch)) {
      return broken();
    }
    memories.push_back(memory);
  }
  memories_ = std::move(memories);
  stopped_ = stopped->get_bool();
  return {};
}

}  // namespace slipway::keras

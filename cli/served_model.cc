#include "cli/served_model.h"

#include <algorithm>
#include <cmath>
#include <format>

#include "cli/json_read.h"
#include "cli/text.h"

namespace slipway::cli {

Outcome<ServedModel> find_model(HttpClient& client, const ModelChoice& choice) {
  ServedModel served{.predict_path = "/v1/models/" + url_segment(choice.model),
                     .version = choice.version,
                     .row_shape = {},
                     .classes = {}};
  const std::string path = "/api/v1/models/" + url_segment(choice.model);
  if (choice.version != 0) {
    served.predict_path += std::format("/versions/{}", choice.version);
  } else {
    const auto model = client.call("GET", path);
    if (!model) return std::unexpected(model.error());
    served.version = count_of(*model, "latest");
    if (!choice.label.empty()) {
      served.predict_path += "/labels/" + url_segment(choice.label);
      served.version = count_of(field(*model, "aliases"), choice.label);
      if (served.version == 0) {
        return give_up(Exit::kRefused, std::format("model {} has no alias '{}'", choice.model, choice.label));
      }
    }
    if (served.version == 0) return give_up(Exit::kRefused, std::format("model {} has no version yet", choice.model));
  }
  served.predict_path += ":predict";

  const auto version = client.call("GET", std::format("{}/versions/{}", path, served.version));
  if (!version) return std::unexpected(version.error());
  const auto& signature = field(*version, "signature");
  if (const auto& inputs = field(signature, "inputs"); inputs.is_array() && !inputs.get_array().empty()) {
    if (const auto& shape = field(inputs.get_array().front(), "shape"); shape.is_array()) {
      for (std::size_t i = 1; i < shape.get_array().size(); ++i) {
        served.row_shape.push_back(static_cast<std::int64_t>(number_of(shape.get_array()[i])));
      }
    }
  }
  if (const auto& classes = field(signature, "classes"); classes.is_array()) {
    for (const auto& name : classes.get_array()) served.classes.push_back(text_of(name));
  }
  const auto& logits = field(signature, "logits");
  served.logits = logits.is_bool() && logits.get_bool();
  return served;
}

boost::json::value probabilities(const ServedModel& served, const boost::json::value& scores) {
  const auto* list = scores.if_array();
  if (!served.logits || list == nullptr || list->empty()) return scores;
  if (list->size() == 1) return boost::json::array{1 / (1 + std::exp(-number_of(list->front())))};
  double largest = number_of(list->front());
  for (const auto& score : *list) largest = std::max(largest, number_of(score));
  double sum = 0;
  for (const auto& score : *list) sum += std::exp(number_of(score) - largest);
  boost::json::array shares;
  for (const auto& score : *list) shares.emplace_back(std::exp(number_of(score) - largest) / sum);
  return shares;
}

Outcome<Decision> decide(const boost::json::value& scores, std::size_t classes) {
  const auto* list = scores.if_array();
  // A binary classifier may answer with the second class's probability alone.
  if (list != nullptr && list->size() == 1 && classes == 2) {
    const double second = number_of(list->front());
    return second >= 0.5 ? Decision{.index = 1, .score = second} : Decision{.index = 0, .score = 1 - second};
  }
  if (list == nullptr || list->empty() || (classes > 0 && list->size() != classes)) {
    return give_up(Exit::kRefused, std::format("a prediction is {}: wanted {} numbers, one for each class",
                                               printable(boost::json::serialize(scores)).substr(0, 80), classes));
  }
  Decision best{.index = 0, .score = number_of(list->front())};
  for (std::size_t i = 1; i < list->size(); ++i) {
    if (const double score = number_of((*list)[i]); score > best.score) best = {.index = i, .score = score};
  }
  return best;
}

Outcome<boost::json::array> predictions_of(const boost::json::value& answer, std::size_t rows) {
  const auto& predictions = field(answer, "predictions");
  if (!predictions.is_array() || predictions.get_array().size() != rows) {
    return give_up(Exit::kRefused, std::format("the answer does not have {} predictions", rows));
  }
  return predictions.get_array();
}

}  // namespace slipway::cli

// One model as it is served: where its predictions are asked for, what its rows look like, what its answers mean.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/http_client.h"
#include "cli/outcome.h"

namespace slipway::cli {

// Which version: a number, or a label (an alias), or neither: the newest.
struct ModelChoice {
  std::string model;
  std::uint64_t version = 0;  // 0: not given
  std::string label;          // "": not given
};

struct ServedModel {
  std::string predict_path;
  std::uint64_t version = 0;            // as the choice stands now
  std::vector<std::int64_t> row_shape;  // of the first input, without the batch
  std::vector<std::string> classes;     // empty: not a classifier
  bool logits = false;                  // the classifier answers logits
};

// Errors: kRefused (no such model, version or label; a model without versions), kUnreachable.
[[nodiscard]] Outcome<ServedModel> find_model(HttpClient& client, const ModelChoice& choice);

// A classifier's scores of one row as probabilities: softmax, of a lone one sigmoid, where the model answers logits.
[[nodiscard]] boost::json::value probabilities(const ServedModel& served, const boost::json::value& scores);

// A classifier's answer to one row: the class of the largest score, and that score. Errors: kRefused (other numbers
// than one a class).
struct Decision {
  std::size_t index = 0;
  double score = 0;
};
[[nodiscard]] Outcome<Decision> decide(const boost::json::value& scores, std::size_t classes);

// The "predictions" of an answer, one a row. Errors: kRefused (none, or another number of rows).
[[nodiscard]] Outcome<boost::json::array> predictions_of(const boost::json::value& answer, std::size_t rows);

}  // namespace slipway::cli

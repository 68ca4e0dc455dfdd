// Job documents for the tests, put together from parts.
#pragma once

#include <gmock/gmock.h>

#include <format>
#include <string>
#include <string_view>

#include "lib/keras/job_spec.h"

namespace slipway::keras {

struct JobParts {
  std::string publish = R"({"model": "fashion"})";
  std::string dataset = R"("fashion-mnist")";
  std::string model = {};    // empty: a classifier of 28 x 28 pixels
  std::string compile = {};  // empty: Adam, sparse_categorical_crossentropy, accuracy; "-": none
  std::string fit = R"({"epochs": 5, "validation_split": 0.1})";
  std::string callbacks = "[]";
  std::string more = {};  // further top-level keys, each with a comma before it
};

// A Keras 3 layer.
inline std::string layer(std::string_view class_name, std::string_view config) {
  return std::format(R"({{"module": "keras.layers", "class_name": "{}", "config": {{{}}}, "registered_name": null}})",
                     class_name, config);
}

// A Keras 3 Sequential over rows of `shape`, e.g. "28, 28"; `layers` separated by commas.
inline std::string sequential(std::string_view shape, std::string_view layers) {
  return std::format(
      R"({{"module": "keras", "class_name": "Sequential", "config": {{"name": "sequential", "layers": [
          {}, {}]}}, "registered_name": null}})",
      layer("InputLayer", std::format(R"("batch_shape": [null, {}], "dtype": "float32", "sparse": false,
                                         "ragged": false, "name": "image", "optional": false)",
                                      shape)),
      layers);
}

inline std::string classifier() {
  return sequential("28, 28", layer("Flatten", R"("name": "flatten")") + "," +
                                  layer("Dense", R"("name": "dense", "units": 10, "activation": "softmax")"));
}

inline std::string regression() { return sequential("13", layer("Dense", R"("units": 1)")); }

inline std::string job(const JobParts& parts = {}) {
  const std::string compile = parts.compile.empty() ? R"({"optimizer": {"class_name": "Adam", "config": {}},
      "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]})"
                                                    : parts.compile;
  return std::format(R"({{"publish": {}, "dataset": {}, "model": {}, {} "fit": {}, "callbacks": {}{}}})", parts.publish,
                     parts.dataset, parts.model.empty() ? classifier() : parts.model,
                     compile == "-" ? "" : std::format(R"("compile": {},)", compile), parts.fit, parts.callbacks,
                     parts.more);
}

inline std::string regression_job(JobParts parts = {}) {
  if (parts.model.empty()) parts.model = regression();
  if (parts.compile.empty()) parts.compile = R"({"optimizer": "adam", "loss": "mse", "metrics": ["mae"]})";
  return job(parts);
}

// Expects a refusal with `code` at `path` whose message holds `text`.
inline void expect_refused(const std::string& document, Code code, std::string_view path, std::string_view text) {
  const auto spec = parse_job(document);
  ASSERT_FALSE(spec) << "was taken: " << document;
  EXPECT_EQ(spec.error().path, path) << spec.error().message;
  EXPECT_THAT(spec.error().message, testing::HasSubstr(text));
  EXPECT_EQ(code_name(spec.error().code), code_name(code)) << spec.error().message;
}

// The specification of a document that must be taken; a failed expectation and an empty one otherwise.
inline JobSpec accepted(const std::string& document) {
  auto spec = parse_job(document);
  EXPECT_TRUE(spec) << (spec ? "" : spec.error().path + ": " + spec.error().message);
  return spec.value_or(JobSpec{});
}

}  // namespace slipway::keras

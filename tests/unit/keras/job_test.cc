#include <fstream>
#include <iterator>

#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

TEST(Job, TheWholeDocumentIsRead) {
  const JobSpec spec = accepted(job({.fit = R"({"epochs": 5, "batch_size": 64, "validation_split": 0.25,
                                               "shuffle": false, "verbose": 2})",
                                     .more = R"(, "seed": 18446744073709551615, "checkpoint_seconds": 0.5)"}));
  EXPECT_EQ(spec.publish_model, "fashion");
  EXPECT_EQ(spec.data.dataset, "fashion-mnist");
  EXPECT_EQ(spec.data.version, 0U);
  EXPECT_TRUE(spec.seed_given);
  EXPECT_EQ(spec.seed, 18446744073709551615U);
  EXPECT_EQ(spec.fit.epochs, 5);
  EXPECT_EQ(spec.fit.batch_size, 64);
  EXPECT_EQ(spec.fit.validation_split, 0.25);
  EXPECT_FALSE(spec.fit.shuffle);
  EXPECT_EQ(spec.checkpoint_seconds, 0.5);
}

TEST(Job, FitHasKerasDefaults) {
  const JobSpec spec = accepted(job({.fit = "{}"}));
  EXPECT_EQ(spec.fit.epochs, 1);
  EXPECT_EQ(spec.fit.batch_size, 32);
  EXPECT_EQ(spec.fit.validation_split, 0);
  EXPECT_TRUE(spec.fit.shuffle);
  EXPECT_FALSE(spec.seed_given);
}

TEST(Job, FitValuesAreBounded) {
  const auto refused = [](std::string_view fit, Code code, std::string_view path) {
    expect_refused(job({.fit = std::string(fit)}), code, path, "");
  };
  refused(R"({"epochs": 0})", Code::kInvalidArgument, "$.fit.epochs");
  refused(R"({"epochs": 100001})", Code::kInvalidArgument, "$.fit.epochs");
  refused(R"({"batch_size": 1048577})", Code::kInvalidArgument, "$.fit.batch_size");
  refused(R"({"validation_split": 1.0})", Code::kInvalidArgument, "$.fit.validation_split");
  refused(R"({"validation_split": -0.1})", Code::kInvalidArgument, "$.fit.validation_split");
  refused(R"({"shuffle": "batch"})", Code::kInvalidArgument, "$.fit.shuffle");
  refused(R"({"class_weight": {"0": 2}})", Code::kUnsupported, "$.fit.class_weight");
  refused(R"({"initial_epoch": 2})", Code::kUnsupported, "$.fit.initial_epoch");
  refused(R"({"steps_per_epoch": 10})", Code::kUnsupported, "$.fit.steps_per_epoch");
  refused(R"({"epoch": 2})", Code::kInvalidArgument, "$.fit.epoch");
  refused("[]", Code::kInvalidArgument, "$.fit");
  accepted(job({.fit = R"({"epochs": 100000, "batch_size": 1048576, "initial_epoch": 0, "class_weight": null})"}));
}

TEST(Job, DatasetsAreNamedWithOrWithoutAVersion) {
  EXPECT_EQ(accepted(job({.dataset = R"("mnist@3")"})).data.version, 3U);
  EXPECT_EQ(accepted(job({.dataset = R"("mnist@3")"})).data.dataset, "mnist");
  const DataSpec table = accepted(job({.dataset = R"({"name": "boston", "version": 2, "target": "medv",
                                                      "features": ["rm", "age"]})"}))
                             .data;
  EXPECT_EQ(table.dataset, "boston");
  EXPECT_EQ(table.version, 2U);
  EXPECT_EQ(table.target, "medv");
  EXPECT_EQ(table.features, (std::vector<std::string>{"rm", "age"}));
  const auto refused = [](std::string_view dataset, std::string_view path, std::string_view why) {
    expect_refused(job({.dataset = std::string(dataset)}), Code::kInvalidArgument, path, why);
  };
  refused(R"("mnist@0")", "$.dataset", "at least 1");
  refused(R"("mnist@")", "$.dataset", "after '@'");
  refused(R"("mnist@3x")", "$.dataset", "'3x'");
  refused(R"("../x")", "$.dataset", "is no name");
  refused(R"({"version": 1})", "$.dataset.name", "missing");
  refused(R"({"name": "b", "version": 0})", "$.dataset.version", "at least 1");
  refused(R"({"name": "b", "features": []})", "$.dataset.features", "at least one");
  refused(R"({"name": "b", "features": ["a", "a"]})", "$.dataset.features[1]", "twice");
  refused(R"({"name": "b", "target": "a", "features": ["a"]})", "$.dataset.features[0]", "target");
  refused(R"({"name": "b", "columns": ["a"]})", "$.dataset.columns", "features");
}

TEST(Job, NamesFollowTheRule) {
  const std::string longest(128, 'a');
  accepted(job({.publish = std::format(R"({{"model": "{}"}})", longest)}));
  const auto refused = [](std::string_view publish, std::string_view path) {
    expect_refused(job({.publish = std::string(publish)}), Code::kInvalidArgument, path, "");
  };
  refused(std::format(R"({{"model": "{}a"}})", longest), "$.publish.model");
  refused(R"({"model": ""})", "$.publish.model");
  refused(R"({"model": "-a"})", "$.publish.model");
  refused(R"({"model": "a/b"})", "$.publish.model");
  refused(R"({})", "$.publish.model");
  refused(R"({"model": "a", "alias": "b"})", "$.publish.alias");
  refused(R"("fashion")", "$.publish");
}

TEST(Job, UnknownTopLevelKeysAreRefusedWithThoseThatAreKnown) {
  expect_refused(job({.more = R"(, "sed": 7)"}), Code::kInvalidArgument, "$.sed",
                 "publish, dataset, seed, fit, checkpoint_seconds, model, compile, callbacks");
  expect_refused(job({.more = R"(, "seed": -1)"}), Code::kInvalidArgument, "$.seed", "-1");
  expect_refused(job({.more = R"(, "seed": 18446744073709551616)"}), Code::kInvalidArgument, "$.seed", "from 0");
  expect_refused(job({.more = R"(, "checkpoint_seconds": -1)"}), Code::kInvalidArgument, "$.checkpoint_seconds", "0");
  expect_refused(job({.more = R"(, "checkpoint_seconds": 0.099)"}), Code::kInvalidArgument, "$.checkpoint_seconds",
                 "at least 0.1 seconds");
  accepted(job({.more = R"(, "checkpoint_seconds": 0.1)"}));
  accepted(job({.more = R"(, "checkpoint_seconds": 0)"}));
}

TEST(Job, ADocumentThatIsNotJsonIsRefusedWithThePlace) {
  expect_refused("", Code::kInvalidArgument, "$", "empty");
  expect_refused("{\n \"fit\": tru }", Code::kInvalidArgument, "$", "line 2");
  expect_refused("{} {}", Code::kInvalidArgument, "$", "more text");
  expect_refused("[]", Code::kInvalidArgument, "$", "a list of 0");
  expect_refused("{\"a\": NaN}", Code::kInvalidArgument, "$", "not JSON");
  expect_refused("{\"a\": \"\xff\"}", Code::kInvalidArgument, "$", "not JSON");
  expect_refused("{\"publish\"", Code::kInvalidArgument, "$", "ends early");
}

TEST(Job, AKeyThatStandsTwiceIsRefused) {
  expect_refused(job({.more = R"(, "fit": {})"}), Code::kInvalidArgument, "$.fit", "twice");
  expect_refused(job({.model = sequential("8", layer("Dense", R"("units": 1, "units": 2)"))}), Code::kInvalidArgument,
                 "$.model.config.layers[1].config.units", "twice");
}

TEST(Job, LargeAndDeepDocumentsAreRefused) {
  expect_refused(std::string((1 << 20) + 1, ' '), Code::kTooLarge, "$", "1048576");
  expect_refused(std::string(10'000, '['), Code::kInvalidArgument, "$", "deeper than 32");
  std::string deep = "0";
  for (int i = 0; i < 10'000; ++i) deep = "{\"a\":" + deep + "}";
  expect_refused(deep, Code::kInvalidArgument, "$", "deeper than 32");
  expect_refused(job({.model = "\"" + std::string(10'000, '[') + "\""}), Code::kInvalidArgument, "$.model",
                 "deeper than 32");
}

TEST(Job, TheExamplesAreTaken) {
  for (const std::string_view name : {"fashion-mnist/mlp.json", "fashion-mnist/cnn.json", "boston/job.json"}) {
    std::ifstream file(std::format("{}/{}", SLIPWAY_EXAMPLES, name));
    ASSERT_TRUE(file) << name;
    const JobSpec spec = accepted(std::string(std::istreambuf_iterator<char>(file), {}));
    EXPECT_FALSE(spec.architecture.layers.empty()) << name;
  }
}

}  // namespace
}  // namespace slipway::keras

// The forms in which the generations of Keras write a Sequential model down.
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "lib/keras/parameters.h"
#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

using Dims = std::vector<std::int64_t>;

constexpr std::string_view kDense2 = R"({"class_name": "Dense", "config": {"name": "out", "trainable": true,
    "dtype": "float32", "units": 1, "activation": "linear", "use_bias": true, "kernel_initializer":
    {"class_name": "GlorotUniform", "config": {"seed": null}}, "bias_initializer": {"class_name": "Zeros", "config": {}},
    "kernel_regularizer": null, "activity_regularizer": null, "kernel_constraint": null)";

// As Keras 3.15 writes it, with every key.
constexpr std::string_view kKeras3 = R"({"module": "keras", "class_name": "Sequential", "config": {"name": "net",
  "trainable": true, "dtype": {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"},
  "registered_name": null}, "layers": [{"module": "keras.layers", "class_name": "InputLayer", "config":
  {"batch_shape": [null, 8, 8, 1], "dtype": "float32", "sparse": false, "ragged": false, "name": "pixels",
  "optional": false}, "registered_name": null}, {"module": "keras.layers", "class_name": "Conv2D", "config":
  {"name": "conv", "trainable": true, "dtype": {"module": "keras", "class_name": "DTypePolicy", "config":
  {"name": "float32"}, "registered_name": null}, "filters": 4, "kernel_size": [3, 3], "strides": [1, 1],
  "padding": "same", "data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1, "activation": "relu",
  "use_bias": true, "kernel_initializer": {"module": "keras.initializers", "class_name": "GlorotUniform", "config":
  {"seed": null, "input_axes": null, "output_axes": null}, "registered_name": null}, "bias_initializer":
  {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": null},
  "kernel_regularizer": {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.01},
  "registered_name": null}, "bias_regularizer": null, "activity_regularizer": null, "kernel_constraint": null,
  "bias_constraint": null}, "registered_name": null, "build_config": {"input_shape": [null, 8, 8, 1]}},
  {"module": "keras.layers", "class_name": "BatchNormalization", "config": {"name": "norm", "trainable": true,
  "axis": -1, "momentum": 0.99, "epsilon": 0.001, "center": true, "scale": true, "beta_regularizer": null,
  "synchronized": false, "renorm": false, "renorm_clipping": null, "renorm_momentum": 0.99}, "registered_name": null},
  {"module": "keras.layers", "class_name": "GlobalAveragePooling2D", "config": {"name": "pool", "trainable": true,
  "data_format": "channels_last", "keepdims": false}, "registered_name": null}, {"module": "keras.layers",
  "class_name": "Dense", "config": {"name": "dense", "units": 3, "activation": "softmax", "quantization_config": null},
  "registered_name": null, "build_config": {"input_shape": [null, 4]}}], "build_input_shape": [null, 8, 8, 1]},
  "registered_name": null, "build_config": {"input_shape": [null, 8, 8, 1]}, "compile_config": {"optimizer":
  {"module": "keras.optimizers", "class_name": "Adam", "config": {"name": "adam",
  "learning_rate": 0.0010000000474974513, "weight_decay": null, "clipnorm": null, "global_clipnorm": null,
  "clipvalue": null, "use_ema": false, "ema_momentum": 0.99, "ema_overwrite_frequency": null,
  "loss_scale_factor": null, "gradient_accumulation_steps": null, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07,
  "amsgrad": false}, "registered_name": null}, "loss": "sparse_categorical_crossentropy", "loss_weights": null,
  "metrics": ["accuracy"], "weighted_metrics": null, "run_eagerly": false, "steps_per_execution": 1,
  "jit_compile": true}})";

std::string keras2(std::string_view config, std::string_view version = "2.15.0") {
  return std::format(R"({{"class_name": "Sequential", "config": {}, "keras_version": "{}", "backend": "tensorflow"}})",
                     config, version);
}
std::string dense2(std::string_view more = "") { return std::format("{}{}}}}}", kDense2, more); }

TEST(Envelope, Keras3CarriesItsOwnCompilation) {
  const JobSpec spec = accepted(job({.model = std::string(kKeras3), .compile = "-"}));
  EXPECT_EQ(spec.architecture.generation, 3);
  EXPECT_EQ(spec.architecture.name, "net");
  EXPECT_EQ(spec.architecture.input_name, "pixels");
  EXPECT_EQ(spec.architecture.input_shape, (Dims{8, 8, 1}));
  ASSERT_EQ(spec.architecture.layers.size(), 4U);
  EXPECT_EQ(spec.architecture.layers[3].path, "$.model.config.layers[4]");
  EXPECT_EQ(spec.architecture.output_shape(), (Dims{3}));
  EXPECT_EQ(spec.optimizer.kind, Optimizer::Kind::kAdam);
  EXPECT_EQ(spec.optimizer.learning_rate, 0.0010000000474974513);
  EXPECT_EQ(spec.loss.kind, Loss::Kind::kSparseCategoricalCrossentropy);
  ASSERT_EQ(spec.metrics.size(), 1U);
  EXPECT_EQ(spec.metrics[0].name, "accuracy");
  EXPECT_EQ(spec.compile_path, "$.model.compile_config");
  EXPECT_EQ(parameter_count(spec.architecture), 40 + 16 + 15);
}

TEST(Envelope, TheDocumentsOwnCompilationWinsOverTheModels) {
  const JobSpec spec = accepted(
      job({.model = std::string(kKeras3), .compile = R"({"optimizer": "sgd", "loss": "categorical_crossentropy"})"}));
  EXPECT_EQ(spec.optimizer.kind, Optimizer::Kind::kSgd);
  EXPECT_TRUE(spec.metrics.empty());
  EXPECT_EQ(spec.compile_path, "$.compile");
}

TEST(Envelope, WithoutAnyCompilationTheJobIsRefused) {
  expect_refused(job({.compile = "-"}), Code::kInvalidArgument, "$.compile", "compile_config");
}

TEST(Envelope, TheModelMayBeTheStringThatToJsonReturns) {
  const std::string text = boost::json::serialize(boost::json::value(kKeras3));
  EXPECT_EQ(accepted(job({.model = text, .compile = "-"})).architecture.name, "net");
  expect_refused(job({.model = R"("{\"class_name\": ")"}), Code::kInvalidArgument, "$.model", "ends early");
  expect_refused(job({.model = R"("{\"class_name\": \"Functional\", \"config\": {}}")"}), Code::kUnsupported,
                 "$.model.class_name", "functional");
}

TEST(Envelope, Keras2NamesTheInputInItsInputLayer) {
  const std::string input = R"({"class_name": "InputLayer", "config": {"batch_input_shape": [null, 13],
      "dtype": "float32", "sparse": false, "ragged": false, "name": "rows"}})";
  const JobSpec spec = accepted(
      regression_job({.model = keras2(std::format(R"({{"name": "s", "layers": [{}, {}]}})", input, dense2()))}));
  EXPECT_EQ(spec.architecture.generation, 2);
  EXPECT_EQ(spec.architecture.input_name, "rows");
  EXPECT_EQ(spec.architecture.input_shape, (Dims{13}));
}

TEST(Envelope, OlderFilesGiveTheShapeWithTheFirstLayer) {
  for (const std::string_view shape : {R"(, "batch_input_shape": [null, 13])", R"(, "input_shape": [13])",
                                       R"(, "input_dim": 13)", R"(, "batch_input_shape": [32, 13])"}) {
    const JobSpec spec =
        accepted(regression_job({.model = keras2(std::format(R"({{"layers": [{}]}})", dense2(shape)), "2.2.4")}));
    EXPECT_EQ(spec.architecture.input_shape, (Dims{13})) << shape;
    EXPECT_EQ(spec.architecture.input_name, "out_input");
  }
}

TEST(Envelope, TheOldestFilesAreABareListOfLayers) {
  const JobSpec spec = accepted(
      regression_job({.model = keras2(std::format("[{}]", dense2(R"(, "batch_input_shape": [null, 13])")), "2.1.6")}));
  EXPECT_EQ(spec.architecture.input_shape, (Dims{13}));
  EXPECT_EQ(spec.architecture.layers[0].path, "$.model.config[0]");
}

TEST(Envelope, AModelBuiltByItsDataSaysTheShapeOnTop) {
  const JobSpec spec = accepted(regression_job(
      {.model = keras2(std::format(R"({{"layers": [{}], "build_input_shape": [null, 13]}})", dense2()))}));
  EXPECT_EQ(spec.architecture.input_shape, (Dims{13}));
}

TEST(Envelope, AModelWithoutAnyShapeIsRefusedWithTheCure) {
  expect_refused(regression_job({.model = keras2(std::format(R"({{"layers": [{}]}})", dense2()))}),
                 Code::kInvalidArgument, "$.model.config.layers[0]", "add an Input or input_shape");
  expect_refused(regression_job({.model = sequential("null", layer("Dense", R"("units": 1)"))}), Code::kUnsupported,
                 "$.model.config.layers[0].config.batch_shape[1]", "free");
  expect_refused(regression_job({.model = sequential("0", layer("Dense", R"("units": 1)"))}), Code::kInvalidArgument,
                 "$.model.config.layers[0].config.batch_shape[1]", "from 1");
}

TEST(Envelope, OnlyKeras2KeepsTheUnbiasedVarianceOfImages) {
  const std::string norm = R"({"class_name": "BatchNormalization", "config": {"name": "n", "axis": [3],
      "batch_input_shape": [null, 4, 4, 2]}}, {"class_name": "Flatten", "config": {}})";
  const JobSpec spec =
      accepted(regression_job({.model = keras2(std::format(R"({{"layers": [{}, {}]}})", norm, dense2()))}));
  EXPECT_TRUE(std::get<BatchNormalization>(spec.architecture.layers[0].kind).unbiased_moving_variance);
}

TEST(Envelope, LayersWithoutNamesAreCountedAsKerasDoes) {
  const JobSpec spec =
      accepted(regression_job({.model = sequential("13", layer("Dense", R"("units": 2)") + "," +
                                                             layer("Dense", R"("units": 2, "name": "dense_1")") + "," +
                                                             layer("Dense", R"("units": 1)"))}));
  EXPECT_EQ(spec.architecture.layers[0].name, "dense");
  EXPECT_EQ(spec.architecture.layers[1].name, "dense_1");
  EXPECT_EQ(spec.architecture.layers[2].name, "dense_2");
  expect_refused(regression_job({.model = sequential("13", layer("Dense", R"("units": 2, "name": "a")") + "," +
                                                               layer("Dense", R"("units": 1, "name": "a")"))}),
                 Code::kInvalidArgument, "$.model.config.layers[2].config.name", "unique");
}

TEST(Envelope, OtherModelsAreRefused) {
  expect_refused(job({.model = R"({"class_name": "Functional", "config": {}})"}), Code::kUnsupported,
                 "$.model.class_name", "functional models");
  expect_refused(job({.model = R"({"class_name": "Mine", "config": {}})"}), Code::kUnsupported, "$.model.class_name",
                 "wanted a Sequential");
  expect_refused(job({.model = R"({"config": {}})"}), Code::kInvalidArgument, "$.model.class_name", "missing");
  expect_refused(job({.model = "7"}), Code::kInvalidArgument, "$.model", "got 7");
  expect_refused(job({.model = R"({"class_name": "Sequential", "config": {"layers": []}})"}), Code::kInvalidArgument,
                 "$.model.config", "no layers");
  expect_refused(job({.model = R"({"class_name": "Sequential", "module": "mine", "config": {"layers": []}})"}),
                 Code::kUnsupported, "$.model.module", "custom");
  expect_refused(job({.model = R"({"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense",
                 "config": {"units": 1, "input_dim": 2}, "inbound": 3}]}})"}),
                 Code::kInvalidArgument, "$.model.config.layers[0].inbound", "unknown key");
}

TEST(Envelope, InputsAreFloatsOrPixels) {
  const auto with = [](std::string_view more) {
    return regression_job(
        {.model = std::format(R"({{"class_name": "Sequential", "config": {{"layers": [{}, {}]}}}})",
                              layer("InputLayer", std::format(R"("batch_shape": [null, 13], {})", more)),
                              layer("Dense", R"("units": 1)"))});
  };
  accepted(with(R"("dtype": "uint8")"));
  const std::string config = "$.model.config.layers[0].config";
  expect_refused(with(R"("dtype": "int32")"), Code::kUnsupported, config + ".dtype", "int32");
  expect_refused(with(R"("sparse": true)"), Code::kUnsupported, config + ".sparse", "sparse");
  expect_refused(with(R"("ragged": true)"), Code::kUnsupported, config + ".ragged", "ragged");
  expect_refused(with(R"("optional": true)"), Code::kUnsupported, config + ".optional", "optional");
}

TEST(Envelope, AModelThatIsNotTrainableIsRefused) {
  std::string frozen = regression();
  frozen.replace(frozen.find(R"("name": "sequential")"), 20, R"("trainable": false )");
  expect_refused(regression_job({.model = frozen}), Code::kInvalidArgument, "$.model", "no trainable weights");
}

}  // namespace
}  // namespace slipway::keras

#include "lib/keras/parameters.h"
#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

using Dims = std::vector<std::int64_t>;
constexpr std::string_view kFirst = "$.model.config.layers[1]";  // [0] is the InputLayer

// The model of one layer over rows of `shape`, trained to be compared with one number.
std::string job_of(std::string_view shape, const std::string& layers) {
  return regression_job(
      {.model = sequential(shape, layers + "," + layer("Flatten", "") + "," + layer("Dense", R"("units": 1)"))});
}
Layer one(std::string_view shape, const std::string& text) {
  const JobSpec spec = accepted(job_of(shape, text));
  return spec.architecture.layers.empty() ? Layer{} : spec.architecture.layers[0];
}
void refused(std::string_view shape, const std::string& text, Code code, std::string_view path, std::string_view why) {
  expect_refused(job_of(shape, text), code, std::string(kFirst) + std::string(path), why);
}

TEST(Layers, DenseWorksOnTheLastAxis) {
  const Layer dense = one("5, 8", layer("Dense", R"("units": 3, "activation": "tanh", "use_bias": false)"));
  EXPECT_EQ(dense.output_shape, (Dims{5, 3}));
  EXPECT_EQ(std::get<Dense>(dense.kind).activation, Activation::kTanh);
  EXPECT_FALSE(std::get<Dense>(dense.kind).use_bias);
  EXPECT_EQ(parameters_of(dense), (ParameterCount{.trainable = 24, .fixed = 0}));
}

TEST(Layers, DenseSettingsAreChecked) {
  refused("8", layer("Dense", R"("units": 0)"), Code::kInvalidArgument, ".config.units", "from 1 to");
  refused("8", layer("Dense", ""), Code::kInvalidArgument, ".config.units", "missing");
  refused("8", layer("Dense", R"("units": 2.5)"), Code::kInvalidArgument, ".config.units", "2.5");
  refused("8", layer("Dense", R"("units": "2")"), Code::kInvalidArgument, ".config.units", "'2'");
  refused("8", layer("Dense", R"("units": 2, "unitz": 3)"), Code::kInvalidArgument, ".config.unitz", "unknown key");
  refused("8", layer("Dense", R"("units": 2, "activation": "gelu")"), Code::kUnsupported, ".config.activation",
          "linear, relu, softmax, sigmoid, tanh");
  refused("8", layer("Dense", R"("units": 2, "kernel_constraint": {"class_name": "NonNeg", "config": {}})"),
          Code::kUnsupported, ".config.kernel_constraint", "constraints");
  refused("8", layer("Dense", R"("units": 2, "activity_regularizer": {"class_name": "L2", "config": {}})"),
          Code::kUnsupported, ".config.activity_regularizer", "activity regularizers");
  refused("8", layer("Dense", R"("units": 2, "quantization_config": {"class_name": "Int8", "config": {}})"),
          Code::kUnsupported, ".config.quantization_config", "quantization");
  refused("8", layer("Dense", R"("units": 2, "dtype": "mixed_float16")"), Code::kUnsupported, ".config.dtype",
          "float32");
}

TEST(Layers, UnknownKeysThatAreOffAreIgnored) {
  one("8", layer("Dense", R"("units": 2.0, "lora_rank": null, "dynamic": false)"));
}

TEST(Layers, ConvolutionShapesFollowKeras) {
  const auto conv = [](std::string_view more) {
    return layer("Conv2D", std::format(R"("filters": 8, "kernel_size": [3, 5] {})", more));
  };
  EXPECT_EQ(one("28, 28, 3", conv("")).output_shape, (Dims{26, 24, 8}));
  EXPECT_EQ(one("28, 28, 3", conv(R"(, "padding": "same")")).output_shape, (Dims{28, 28, 8}));
  EXPECT_EQ(one("7, 7, 3", conv(R"(, "padding": "same", "strides": [2, 3])")).output_shape, (Dims{4, 3, 8}));
  EXPECT_EQ(one("28, 28, 3", conv(R"(, "strides": 2)")).output_shape, (Dims{13, 12, 8}));
  EXPECT_EQ(one("28, 28, 3", conv(R"(, "dilation_rate": [2, 1])")).output_shape, (Dims{24, 24, 8}));
  const Layer grouped = one("28, 28, 4", conv(R"(, "groups": 2)"));
  EXPECT_EQ(parameters_of(grouped).trainable, 3 * 5 * 2 * 8 + 8);
}

TEST(Layers, ConvolutionsThatCannotBeAreRefused) {
  const auto conv = [](std::string_view more) {
    return layer("Conv2D", std::format(R"("filters": 8, "kernel_size": 3 {})", more));
  };
  refused("2, 28, 1", conv(""), Code::kInvalidArgument, ".config.kernel_size", "padding 'same'");
  refused("28, 28, 3", conv(R"(, "groups": 2)"), Code::kInvalidArgument, ".config.groups", "do not divide");
  refused("28, 28, 3", conv(R"(, "groups": 3)"), Code::kInvalidArgument, ".config.groups", "8 filters");
  refused("28, 28, 3", conv(R"(, "strides": 2, "dilation_rate": 2)"), Code::kInvalidArgument, ".config.dilation_rate",
          "cannot both");
  refused("28, 28, 3", conv(R"(, "data_format": "channels_first")"), Code::kUnsupported, ".config.data_format",
          "channels_last");
  refused("28, 28, 3", conv(R"(, "padding": "causal")"), Code::kInvalidArgument, ".config.padding", "'causal'");
  refused("28, 28", conv(""), Code::kInvalidArgument, "", "[28, 28]");
  refused("28, 28, 3", layer("Conv2D", R"("filters": 8, "kernel_size": [3, 3, 3])"), Code::kInvalidArgument,
          ".config.kernel_size", "list of two");
}

TEST(Layers, PoolingShapesFollowKeras) {
  EXPECT_EQ(one("5, 5, 3", layer("MaxPooling2D", "")).output_shape, (Dims{2, 2, 3}));
  EXPECT_EQ(one("5, 5, 3", layer("MaxPooling2D", R"("padding": "same")")).output_shape, (Dims{3, 3, 3}));
  EXPECT_EQ(one("5, 5, 3", layer("AveragePooling2D", R"("pool_size": 3, "strides": 1)")).output_shape, (Dims{3, 3, 3}));
  const Layer pool = one("9, 9, 3", layer("MaxPooling2D", R"("pool_size": [3, 2], "strides": null)"));
  EXPECT_EQ(std::get<Pooling2D>(pool.kind).strides[0], 3);
  EXPECT_EQ(std::get<Pooling2D>(pool.kind).strides[1], 2);
  EXPECT_TRUE(std::get<Pooling2D>(one("5, 5, 3", layer("AveragePooling2D", R"("pool_size": 2)")).kind).average);
  EXPECT_EQ(one("5, 4, 3", layer("GlobalAveragePooling2D", "")).output_shape, (Dims{3}));
  EXPECT_EQ(one("5, 4, 3", layer("GlobalAveragePooling2D", R"("keepdims": true)")).output_shape, (Dims{1, 1, 3}));
  refused("1, 5, 3", layer("MaxPooling2D", ""), Code::kInvalidArgument, ".config.pool_size", "padding 'same'");
  refused("5", layer("MaxPooling2D", ""), Code::kInvalidArgument, "", "[height, width, channels]");
  refused("5", layer("GlobalAveragePooling2D", ""), Code::kInvalidArgument, "", "[5]");
}

TEST(Layers, DropoutTakesRatesBelowOne) {
  EXPECT_EQ(std::get<Dropout>(one("5", layer("Dropout", R"("rate": 0.2, "seed": 7)")).kind).rate, 0.2);
  refused("5", layer("Dropout", R"("rate": 1.0)"), Code::kInvalidArgument, ".config.rate", "below 1");
  refused("5", layer("Dropout", R"("rate": 0.5, "noise_shape": [1, 5])"), Code::kUnsupported, ".config.noise_shape",
          "noise_shape");
}

TEST(Layers, BatchNormalizationIsOverTheLastAxis) {
  const Layer norm = one("4, 4, 6", layer("BatchNormalization", R"("axis": [3], "momentum": 0.9)"));
  EXPECT_EQ(std::get<BatchNormalization>(norm.kind).momentum, 0.9);
  EXPECT_FALSE(std::get<BatchNormalization>(norm.kind).unbiased_moving_variance);
  EXPECT_EQ(parameters_of(norm), (ParameterCount{.trainable = 12, .fixed = 12}));
  refused("4, 4, 6", layer("BatchNormalization", R"("axis": 1)"), Code::kUnsupported, ".config.axis", "last axis");
  refused("6", layer("BatchNormalization", R"("axis": [1, 2])"), Code::kUnsupported, ".config.axis", "last axis");
  refused("6", layer("BatchNormalization", R"("synchronized": true)"), Code::kUnsupported, ".config.synchronized",
          "synchronized");
  refused("6", layer("BatchNormalization", R"("renorm": true)"), Code::kUnsupported, ".config.renorm", "renorm");
}

TEST(Layers, ALayerThatIsNotTrainableHasOnlyFixedParameters) {
  const Layer norm = one("6", layer("BatchNormalization", R"("trainable": false)"));
  EXPECT_EQ(parameters_of(norm), (ParameterCount{.trainable = 0, .fixed = 24}));
}

TEST(Layers, RescalingAndNormalizationTakeOneNumberOrOneForEachChannel) {
  EXPECT_EQ(std::get<Rescaling>(one("5", layer("Rescaling", R"("scale": 0.5)")).kind).scale, std::vector{0.5});
  const Layer norm = one("2", layer("Normalization", R"("axis": [-1], "mean": [[1, 2]], "variance": [4, 9])"));
  EXPECT_EQ(std::get<Normalization>(norm.kind).mean, (std::vector<double>{1, 2}));
  EXPECT_EQ(parameters_of(norm), ParameterCount{});
  const Layer adapted = one("2", layer("Normalization", R"("axis": -1, "mean": null, "variance": null)"));
  EXPECT_TRUE(std::get<Normalization>(adapted.kind).mean.empty());
  EXPECT_EQ(parameters_of(adapted), (ParameterCount{.trainable = 0, .fixed = 5}));
  const Layer array = one("2", layer("Normalization", R"("variance": 1, "mean":
      {"class_name": "__numpy__", "config": {"value": [3.0, 4.0], "dtype": "float32"}})"));
  EXPECT_EQ(std::get<Normalization>(array.kind).mean, (std::vector<double>{3, 4}));
  refused("2", layer("Normalization", R"("mean": [1, 2, 3], "variance": 1)"), Code::kInvalidArgument, ".config.mean",
          "2 channels");
  refused("2", layer("Normalization", R"("mean": 1)"), Code::kInvalidArgument, "", "go together");
  refused("2", layer("Normalization", R"("mean": 1, "variance": -1)"), Code::kInvalidArgument, ".config.variance",
          "below 0");
  refused("2", layer("Normalization", R"("axis": [])"), Code::kUnsupported, ".config.axis", "last axis");
  refused("2", layer("Rescaling", ""), Code::kInvalidArgument, ".config.scale", "missing");
  refused("2", layer("Rescaling", R"("scale": 1e999)"), Code::kInvalidArgument, ".config.scale", "finite");
}

TEST(Layers, ReshapeResolvesItsFreeDimension) {
  const Layer reshape = one("4, 6", layer("Reshape", R"("target_shape": [3, -1, 2])"));
  EXPECT_EQ(reshape.output_shape, (Dims{3, 4, 2}));
  EXPECT_EQ(std::get<Reshape>(reshape.kind).target_shape, (Dims{3, 4, 2}));
  refused("4, 6", layer("Reshape", R"("target_shape": [5, 5])"), Code::kInvalidArgument, ".config.target_shape",
          "24 elements");
  refused("4, 6", layer("Reshape", R"("target_shape": [5, -1])"), Code::kInvalidArgument, ".config.target_shape", "24");
  refused("4, 6", layer("Reshape", R"("target_shape": [-1, -1])"), Code::kInvalidArgument, ".config.target_shape[1]",
          "only one");
  refused("4, 6", layer("Reshape", R"("target_shape": [])"), Code::kInvalidArgument, ".config.target_shape",
          "at least");
  refused("4, 6", layer("Reshape", R"("target_shape": [2147483648, 2147483648, 2147483648])"), Code::kInvalidArgument,
          ".config.target_shape", "more than");
}

TEST(Layers, ActivationLayersAreNamedOrOfTheirOwn) {
  EXPECT_EQ(std::get<ActivationLayer>(one("4", layer("Activation", R"("activation": "relu")")).kind).activation,
            Activation::kRelu);
  EXPECT_EQ(
      std::get<ActivationLayer>(one("4", layer("ReLU", R"("max_value": null, "negative_slope": 0.0)")).kind).activation,
      Activation::kRelu);
  refused("4", layer("ReLU", R"("max_value": 6.0)"), Code::kUnsupported, ".config.max_value", "max_value");
  refused("4", layer("Activation", ""), Code::kInvalidArgument, ".config.activation", "missing");
  refused("4", layer("Activation", R"("activation": {"class_name": "LeakyReLU", "config": {}})"), Code::kUnsupported,
          ".config.activation.class_name", "LeakyReLU");
}

TEST(Layers, SoftmaxOverOneUnitIsRefused) {
  refused("4", layer("Dense", R"("units": 1, "activation": "softmax")"), Code::kInvalidArgument, "", "always 1");
  refused("4, 1", layer("Softmax", ""), Code::kInvalidArgument, "", "sigmoid");
}

TEST(Layers, OthersAreRefusedWithTheListOfThoseThatAre) {
  refused("4", layer("LSTM", R"("units": 4)"), Code::kUnsupported, ".class_name", "GlobalAveragePooling2D");
  refused("4", layer("Lambda", ""), Code::kUnsupported, ".class_name", "Python code");
  refused("4", R"({"module": "mine.layers", "class_name": "Dense", "config": {"units": 1}})", Code::kUnsupported,
          ".module", "custom objects");
  refused("4", R"({"module": "kerasx", "class_name": "Dense", "config": {"units": 1}})", Code::kUnsupported, ".module",
          "custom objects");
  refused("4", R"({"module": null, "class_name": "Dense", "config": {"units": 1}, "registered_name": "pkg>Dense"})",
          Code::kUnsupported, ".registered_name", "custom objects");
  refused("4", layer("InputLayer", R"("batch_shape": [null, 4])"), Code::kInvalidArgument, "", "only come first");
}

TEST(Layers, InitializersAreReadInAllTheirForms) {
  const auto kernel = [](std::string_view text) {
    const Layer dense = one("4", layer("Dense", std::format(R"("units": 2, "kernel_initializer": {})", text)));
    return std::get<Dense>(dense.kind).kernel;
  };
  using Kind = Initializer::Kind;
  const Initializer glorot = std::get<Dense>(one("4", layer("Dense", R"("units": 2)")).kind).kernel;
  EXPECT_EQ(glorot.kind, Kind::kVarianceScaling);
  EXPECT_EQ(glorot.fan, Initializer::Fan::kAverage);
  EXPECT_EQ(glorot.distribution, Initializer::Distribution::kUniform);
  const Initializer he = kernel(R"({"module": "keras.initializers", "class_name": "HeNormal", "registered_name": null,
                                    "config": {"seed": -3, "input_axes": null, "output_axes": null}})");
  EXPECT_EQ(he.scale, 2);
  EXPECT_EQ(he.fan, Initializer::Fan::kIn);
  EXPECT_EQ(he.distribution, Initializer::Distribution::kTruncatedNormal);
  EXPECT_EQ(he.seed, static_cast<std::uint64_t>(-3));
  EXPECT_EQ(kernel(R"("lecun_uniform")").fan, Initializer::Fan::kIn);
  EXPECT_EQ(kernel(R"("zeros")").kind, Kind::kZeros);
  EXPECT_EQ(kernel(R"("one")").kind, Kind::kOnes);
  EXPECT_EQ(kernel(R"({"class_name": "Constant", "config": {"value": 3}})").value, 3);
  EXPECT_EQ(kernel(R"({"class_name": "RandomNormal", "config": {"mean": 1.0, "stddev": 2.0, "seed": 5}})").stddev, 2);
  EXPECT_EQ(kernel(R"({"class_name": "RandomUniform", "config": {"minval": -1, "maxval": 1}})").min, -1);
  EXPECT_EQ(kernel(R"("truncated_normal")").stddev, 0.05);
  const Initializer scaled = kernel(R"({"class_name": "VarianceScaling", "config":
      {"scale": 3.0, "mode": "fan_out", "distribution": "untruncated_normal", "seed": null}})");
  EXPECT_EQ(scaled.fan, Initializer::Fan::kOut);
  EXPECT_EQ(scaled.distribution, Initializer::Distribution::kUntruncatedNormal);
  const std::string path = ".config.kernel_initializer";
  refused("4", layer("Dense", R"("units": 2, "kernel_initializer": "orthogonal")"), Code::kUnsupported, path,
          "HeNormal");
  refused("4", layer("Dense", R"("units": 2, "kernel_initializer": {"class_name": "VarianceScaling",
          "config": {"mode": "fan"}})"),
          Code::kInvalidArgument, path + ".config.mode", "fan_in");
  refused("4", layer("Dense", R"("units": 2, "kernel_initializer": 3)"), Code::kInvalidArgument, path, "got 3");
}

TEST(Layers, RegularizersAreReadInAllTheirForms) {
  const auto kernel = [](std::string_view text) {
    const Layer dense = one("4", layer("Dense", std::format(R"("units": 2, "kernel_regularizer": {})", text)));
    return std::get<Dense>(dense.kind).kernel_regularizer;
  };
  EXPECT_EQ(kernel(R"("l2")").l2, 0.01);
  EXPECT_EQ(kernel(R"({"class_name": "L1", "config": {"l1": 0.5}})").l1, 0.5);
  EXPECT_EQ(kernel(R"({"class_name": "L1L2", "config": {"l1": 0.5, "l2": 0.25}})").l2, 0.25);
  EXPECT_EQ(kernel(R"("l1_l2")").l1, 0.01);
  EXPECT_EQ(kernel("null").l2, 0);
  refused("4", layer("Dense", R"("units": 2, "kernel_regularizer": "orthogonal_regularizer")"), Code::kUnsupported,
          ".config.kernel_regularizer", "L1L2");
  refused("4", layer("Dense", R"("units": 2, "kernel_regularizer": {"class_name": "L2", "config": {"l2": -1}})"),
          Code::kInvalidArgument, ".config.kernel_regularizer.config.l2", "at least 0");
}

TEST(Layers, HugeShapesAreRefusedWithoutOverflow) {
  refused("2, 2", layer("Dense", R"("units": 2147483648)"), Code::kInvalidArgument, "", "gives rows of shape");
  expect_refused(job_of("2147483648", layer("Dense", R"("units": 2147483648)")), Code::kInvalidArgument, "$.model",
                 "parameters");
  expect_refused(job_of("2147483648, 2147483648, 2147483648", layer("Flatten", "")), Code::kInvalidArgument,
                 "$.model.config.layers[0].config.batch_shape", "elements");
}

TEST(Layers, TheModelsParametersAreBounded) {
  expect_refused(regression_job({.model = sequential("100000", layer("Dense", R"("units": 100000)") + "," +
                                                                   layer("Dense", R"("units": 1)"))}),
                 Code::kInvalidArgument, "$.model", "parameters");
  expect_refused(regression_job({.model = sequential("1", layer("Flatten", ""))}), Code::kInvalidArgument, "$.model",
                 "nothing to train");
}

}  // namespace
}  // namespace slipway::keras

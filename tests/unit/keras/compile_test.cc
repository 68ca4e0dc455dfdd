#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

std::string with_optimizer(std::string_view optimizer) {
  return regression_job({.compile = std::format(R"({{"optimizer": {}, "loss": "mse"}})", optimizer)});
}
std::string head(std::string_view units, std::string_view activation, std::string_view compile) {
  return job(
      {.model = sequential("8", layer("Dense", std::format(R"("units": {}, "activation": "{}")", units, activation))),
       .compile = std::string(compile)});
}
std::string with_loss(std::string_view units, std::string_view activation, std::string_view loss) {
  return head(units, activation, std::format(R"({{"loss": {}}})", loss));
}

TEST(Optimizers, NamesInAnyCaseHaveKerasDefaults) {
  const Optimizer sgd = accepted(with_optimizer(R"("SGD")")).optimizer;
  EXPECT_EQ(sgd.kind, Optimizer::Kind::kSgd);
  EXPECT_EQ(sgd.learning_rate, 0.01);
  EXPECT_EQ(accepted(with_optimizer(R"("AdamW")")).optimizer.weight_decay, 0.004);
  EXPECT_EQ(accepted(with_optimizer(R"("adam")")).optimizer.epsilon, 1e-7);
  EXPECT_EQ(accepted(with_optimizer(R"("rmsprop")")).optimizer.rho, 0.9);
  EXPECT_EQ(accepted(regression_job({.compile = R"({"loss": "mse"})"})).optimizer.kind, Optimizer::Kind::kRmsprop);
}

TEST(Optimizers, Keras2SettingsAreRead) {
  const Optimizer sgd = accepted(with_optimizer(R"({"class_name": "SGD", "config": {"name": "SGD", "lr": 0.5,
      "decay": 0.0, "momentum": 0.9, "nesterov": true, "jit_compile": true, "weight_decay": false}})"))
                            .optimizer;
  EXPECT_EQ(sgd.learning_rate, 0.5);
  EXPECT_EQ(sgd.momentum, 0.9);
  EXPECT_TRUE(sgd.nesterov);
  EXPECT_EQ(sgd.weight_decay, 0);
  EXPECT_EQ(accepted(with_optimizer(R"({"class_name": "Adam", "config": {"clipnorm": 1.0}})")).optimizer.clipnorm, 1);
}

TEST(Optimizers, WhatIsNotSupportedIsRefusedWithItsPath) {
  const auto adam = [](std::string_view setting) {
    return with_optimizer(std::format(R"({{"class_name": "Adam", "config": {{{}}}}})", setting));
  };
  const std::string config = "$.compile.optimizer.config.";
  expect_refused(adam(R"("use_ema": true)"), Code::kUnsupported, config + "use_ema", "use_ema");
  expect_refused(adam(R"("loss_scale_factor": 2.0)"), Code::kUnsupported, config + "loss_scale_factor", "scaling");
  expect_refused(adam(R"("gradient_accumulation_steps": 2)"), Code::kUnsupported,
                 config + "gradient_accumulation_steps", "batch_size");
  expect_refused(adam(R"("learning_rate": {"class_name": "CosineDecay", "config": {}})"), Code::kUnsupported,
                 config + "learning_rate", "ReduceLROnPlateau");
  expect_refused(adam(R"("decay": 0.1)"), Code::kUnsupported, config + "decay", "decay");
  expect_refused(adam(R"("learning_rate": -1)"), Code::kInvalidArgument, config + "learning_rate", "at least 0");
  expect_refused(adam(R"("beta_1": 1)"), Code::kInvalidArgument, config + "beta_1", "below 1");
  expect_refused(adam(R"("clipnorm": 1, "clipvalue": 1)"), Code::kInvalidArgument, config + "clipvalue", "only one");
  expect_refused(adam(R"("beta1": 0.9)"), Code::kInvalidArgument, config + "beta1", "beta_1");
  expect_refused(with_optimizer(R"("nadam")"), Code::kUnsupported, "$.compile.optimizer", "RMSprop");
  expect_refused(with_optimizer(R"({"class_name": "Lion", "config": {}})"), Code::kUnsupported,
                 "$.compile.optimizer.class_name", "AdamW");
}

TEST(Losses, AllNamesOfKerasAreTaken) {
  for (const std::string_view name : {"mse", "MSE", "mean_squared_error", "MeanSquaredError"}) {
    EXPECT_EQ(accepted(with_loss("1", "linear", std::format("\"{}\"", name))).loss.kind, Loss::Kind::kMeanSquaredError);
  }
  for (const std::string_view name : {"mae", "MAE", "mean_absolute_error", "MeanAbsoluteError"}) {
    EXPECT_EQ(accepted(with_loss("1", "linear", std::format("\"{}\"", name))).loss.kind,
              Loss::Kind::kMeanAbsoluteError);
  }
  for (const std::string_view name : {"bce", "BCE", "binary_crossentropy", "BinaryCrossentropy", "crossentropy"}) {
    EXPECT_EQ(accepted(with_loss("1", "sigmoid", std::format("\"{}\"", name))).loss.kind,
              Loss::Kind::kBinaryCrossentropy);
  }
  EXPECT_EQ(accepted(with_loss("3", "softmax", R"("ce")")).loss.kind, Loss::Kind::kSparseCategoricalCrossentropy);
  EXPECT_EQ(accepted(with_loss("3", "softmax", R"(["CategoricalCrossentropy"])")).loss.kind,
            Loss::Kind::kCategoricalCrossentropy);
  EXPECT_EQ(accepted(with_loss("1", "linear", R"({"module": "builtins", "class_name": "function",
      "config": "mean_squared_error", "registered_name": "function"})"))
                .loss.kind,
            Loss::Kind::kMeanSquaredError);
}

TEST(Losses, SettingsAreReadAndLimited) {
  const Loss smooth = accepted(with_loss("3", "linear", R"({"module": "keras.losses", "registered_name": null,
      "class_name": "CategoricalCrossentropy", "config": {"name": "categorical_crossentropy", "from_logits": true,
      "reduction": "sum_over_batch_size", "label_smoothing": 0.1, "axis": -1}})"))
                          .loss;
  EXPECT_TRUE(smooth.from_logits);
  EXPECT_EQ(smooth.label_smoothing, 0.1);
  const auto sparse = [](std::string_view setting) {
    return with_loss("3", "softmax",
                     std::format(R"({{"class_name": "SparseCategoricalCrossentropy",
                                                      "config": {{{}}}}})",
                                 setting));
  };
  const std::string config = "$.compile.loss.config.";
  expect_refused(sparse(R"("reduction": "sum")"), Code::kUnsupported, config + "reduction", "sum_over_batch_size");
  expect_refused(sparse(R"("ignore_class": 2)"), Code::kUnsupported, config + "ignore_class", "ignoring");
  expect_refused(sparse(R"("ignore_class": 0)"), Code::kUnsupported, config + "ignore_class", "ignoring");
  expect_refused(sparse(R"("axis": 1)"), Code::kUnsupported, config + "axis", "last axis");
  expect_refused(with_loss("1", "linear", R"("huber")"), Code::kUnsupported, "$.compile.loss", "mse");
  expect_refused(with_loss("1", "linear", R"(["mse", "mae"])"), Code::kInvalidArgument, "$.compile.loss", "one loss");
  expect_refused(head("1", "linear", R"({"optimizer": "adam"})"), Code::kInvalidArgument, "$.compile.loss", "missing");
}

TEST(Losses, TheyMustFitTheOutput) {
  constexpr std::string_view kPath = "$.compile.loss";
  const auto refused = [&](const std::string& document, std::string_view why) {
    expect_refused(document, Code::kInvalidArgument, kPath, why);
  };
  refused(with_loss("1", "sigmoid", R"("sparse_categorical_crossentropy")"), "binary_crossentropy");
  refused(with_loss("1", "sigmoid", R"("categorical_crossentropy")"), "one output for each class");
  refused(with_loss("3", "sigmoid", R"("binary_crossentropy")"), "must have shape [1]");
  refused(with_loss("3", "linear", R"("mse")"), "sparse_categorical_crossentropy");
  refused(with_loss("3", "linear", R"("sparse_categorical_crossentropy")"), "add activation softmax");
  refused(with_loss("3", "sigmoid", R"("categorical_crossentropy")"), "add activation softmax");
  refused(with_loss("1", "linear", R"("binary_crossentropy")"), "add activation sigmoid, or set from_logits");
  refused(with_loss("3", "softmax", R"({"class_name": "SparseCategoricalCrossentropy",
                                        "config": {"from_logits": true}})"),
          "leave out one");
  refused(job({.model = sequential("4, 8", layer("Dense", R"("units": 3, "activation": "softmax")"))}), "add Flatten");
}

TEST(Losses, ProbabilitiesAreSeenThroughLayersThatOnlyReshape) {
  accepted(job({.model = sequential("1, 8", layer("Dense", R"("units": 3)") + "," +
                                                layer("Activation", R"("activation": "softmax")") + "," +
                                                layer("Flatten", ""))}));
  expect_refused(job({.model = sequential("2, 8", layer("Dense", R"("units": 3, "activation": "softmax")") + "," +
                                                      layer("Flatten", ""))}),
                 Code::kInvalidArgument, "$.compile.loss", "no probabilities");
}

TEST(Metrics, AccuracyIsResolvedByTheOutput) {
  const auto kind = [](std::string_view units, std::string_view activation, std::string_view loss) {
    const auto metrics =
        accepted(head(units, activation, std::format(R"({{"loss": "{}", "metrics": ["acc"]}})", loss))).metrics;
    EXPECT_EQ(metrics.size(), 1U);
    EXPECT_EQ(metrics.at(0).name, "acc");
    return metrics.at(0).kind;
  };
  EXPECT_EQ(kind("3", "softmax", "sparse_categorical_crossentropy"), MetricKind::kSparseCategoricalAccuracy);
  EXPECT_EQ(kind("3", "softmax", "categorical_crossentropy"), MetricKind::kCategoricalAccuracy);
  EXPECT_EQ(kind("1", "sigmoid", "binary_crossentropy"), MetricKind::kBinaryAccuracy);
}

TEST(Metrics, NamesAreWhatKerasLogs) {
  const auto metrics = accepted(head("1", "linear", R"({"loss": "mse", "loss_weights": [1.0], "weighted_metrics": [],
      "metrics": ["MAE", ["mean_squared_error"], {"class_name": "RootMeanSquaredError", "config": {"name": "rmse"}},
                  {"module": "keras.metrics", "class_name": "MeanAbsoluteError", "config": {"dtype": "float32"},
                   "registered_name": null}]})"))
                           .metrics;
  ASSERT_EQ(metrics.size(), 4U);
  EXPECT_EQ(metrics[0].name, "MAE");
  EXPECT_EQ(metrics[1].name, "mean_squared_error");
  EXPECT_EQ(metrics[2].name, "rmse");
  EXPECT_EQ(metrics[2].kind, MetricKind::kRootMeanSquaredError);
  EXPECT_EQ(metrics[3].name, "mean_absolute_error");
}

TEST(Metrics, OthersAndThoseThatDoNotFitAreRefused) {
  const auto refused = [](std::string_view metrics, Code code, std::string_view path, std::string_view why) {
    expect_refused(head("1", "sigmoid", std::format(R"({{"loss": "bce", "metrics": {}}})", metrics)), code, path, why);
  };
  refused(R"(["AUC"])", Code::kUnsupported, "$.compile.metrics[0]", "binary_accuracy");
  refused(R"(["sparse_categorical_accuracy"])", Code::kInvalidArgument, "$.compile.metrics[0]", "[1]");
  refused(R"([{"class_name": "BinaryAccuracy", "config": {"threshold": 0.7}}])", Code::kUnsupported,
          "$.compile.metrics[0].config.threshold", "0.5");
  refused(R"(["mse", ["mse"]])", Code::kInvalidArgument, "$.compile.metrics[1][0]", "another");
  refused(R"([{"class_name": "MeanSquaredError", "config": {"name": "loss"}}])", Code::kInvalidArgument,
          "$.compile.metrics[0]", "'loss'");
  refused(R"([3])", Code::kInvalidArgument, "$.compile.metrics[0]", "got 3");
  expect_refused(head("3", "softmax", R"({"loss": "ce", "metrics": ["mse"]})"), Code::kInvalidArgument,
                 "$.compile.metrics[0]", "wants an output of shape [1]");
}

TEST(Compile, OtherKeysAreRefusedUnlessTheyChangeNothing) {
  accepted(
      head("1", "linear", R"({"loss": "mse", "run_eagerly": false, "steps_per_execution": 1, "jit_compile": "auto"})"));
  expect_refused(head("1", "linear", R"({"loss": "mse", "loss_weights": [0.5]})"), Code::kUnsupported,
                 "$.compile.loss_weights", "weights");
  expect_refused(head("1", "linear", R"({"loss": "mse", "weighted_metrics": ["mae"]})"), Code::kUnsupported,
                 "$.compile.weighted_metrics", "weighted");
  expect_refused(head("1", "linear", R"({"loss": "mse", "lr": 1})"), Code::kInvalidArgument, "$.compile.lr",
                 "known here: optimizer, loss, metrics");
}

}  // namespace
}  // namespace slipway::keras

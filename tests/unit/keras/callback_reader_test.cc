#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

std::string with(std::string_view class_name, std::string_view config,
                 std::string_view fit = R"({"validation_split": 0.1})") {
  return job({.fit = std::string(fit),
              .callbacks = std::format(R"([{{"class_name": "{}", "config": {{{}}}}}])", class_name, config)});
}
template <class Kind>
Kind read(std::string_view class_name, std::string_view config) {
  const JobSpec spec = accepted(with(class_name, config));
  return spec.callbacks.empty() ? Kind{} : std::get<Kind>(spec.callbacks[0]);
}
constexpr std::string_view kConfig = "$.callbacks[0].config.";

TEST(CallbackReader, DefaultsAreKeras) {
  const auto plateau = read<ReduceLROnPlateau>("ReduceLROnPlateau", "");
  EXPECT_EQ(plateau.monitor, "val_loss");
  EXPECT_EQ(plateau.factor, 0.1);
  EXPECT_EQ(plateau.patience, 10);
  EXPECT_EQ(plateau.min_delta, 1e-4);
  const auto early = read<EarlyStopping>("EarlyStopping", R"("verbose": 1)");
  EXPECT_EQ(early.patience, 0);
  EXPECT_FALSE(early.maximize);
  EXPECT_FALSE(early.baseline);
  accepted(job({.callbacks = R"(["TerminateOnNaN"])"}));
}

TEST(CallbackReader, TheDirectionIsThatOfTheMetric) {
  EXPECT_TRUE(read<EarlyStopping>("EarlyStopping", R"("monitor": "val_accuracy")").maximize);
  EXPECT_FALSE(read<EarlyStopping>("EarlyStopping", R"("monitor": "val_accuracy", "mode": "min")").maximize);
  EXPECT_TRUE(read<ReduceLROnPlateau>("ReduceLROnPlateau", R"("monitor": "learning_rate", "mode": "max")").maximize);
  EXPECT_EQ(read<EarlyStopping>("EarlyStopping", R"("min_delta": -0.5)").min_delta, 0.5);
}

TEST(CallbackReader, MonitorsThatWillNotBeLoggedAreRefused) {
  const std::string monitor = std::string(kConfig) + "monitor";
  expect_refused(with("EarlyStopping", "", "{}"), Code::kInvalidArgument, monitor, "validation_split");
  expect_refused(with("EarlyStopping", R"("monitor": "val_acc")"), Code::kInvalidArgument, monitor,
                 "available: loss, accuracy, val_loss, val_accuracy");
  expect_refused(with("EarlyStopping", R"("monitor": "learning_rate", "mode": "min")"), Code::kInvalidArgument, monitor,
                 "available");
  accepted(with("EarlyStopping", R"("monitor": "loss")", "{}"));
}

TEST(CallbackReader, SettingsThatCannotBeAreRefused) {
  const auto refused = [](std::string_view kind, std::string_view config, std::string_view key, std::string_view why) {
    expect_refused(with(kind, config), Code::kInvalidArgument, std::string(kConfig) + std::string(key), why);
  };
  refused("ReduceLROnPlateau", R"("factor": 1.0)", "factor", "below 1");
  refused("ReduceLROnPlateau", R"("patience": -1)", "patience", "from 0");
  refused("ReduceLROnPlateau", R"("monitor": "learning_rate")", "mode", "'min' or 'max'");
  refused("EarlyStopping", R"("mode": "up")", "mode", "'up'");
  refused("EarlyStopping", R"("baseline": "low")", "baseline", "'low'");
  refused("EarlyStopping", R"("patients": 3)", "patients", "patience");
}

TEST(CallbackReader, OtherCallbacksAreRefused) {
  expect_refused(with("LearningRateScheduler", ""), Code::kUnsupported, "$.callbacks[0].class_name", "EarlyStopping");
  expect_refused(with("ModelCheckpoint", R"("filepath": "x")"), Code::kUnsupported, "$.callbacks[0].class_name",
                 "checkpoint_seconds");
  expect_refused(job({.callbacks = "{}"}), Code::kInvalidArgument, "$.callbacks", "wanted a list");
  expect_refused(job({.callbacks = "[1]"}), Code::kInvalidArgument, "$.callbacks[0]", "got 1");
}

}  // namespace
}  // namespace slipway::keras

// The expected sequences are what Keras 3.15's own callbacks did with the same logs.
#include "lib/keras/callbacks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

namespace slipway::keras {
namespace {

using testing::ElementsAre;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Stopping {
  std::optional<std::int64_t> stopped_at;
  std::optional<std::int64_t> restored;
  bool operator==(const Stopping&) const = default;
};
Stopping stopping(EarlyStopping callback, const std::vector<double>& values) {
  callback.monitor = "loss";
  callback.restore_best_weights = true;
  CallbackState state({callback});
  Stopping out;
  std::optional<std::int64_t> remembered;
  for (std::size_t i = 0; i < values.size() && !out.stopped_at; ++i) {
    const auto epoch = static_cast<std::int64_t>(i);
    const EpochDecision decision = state.on_epoch_end(epoch, {{"loss", values[i]}}, 0.1);
    if (decision.is_best) remembered = epoch;
    if (decision.stop) out.stopped_at = epoch;
    EXPECT_EQ(decision.stop, state.stopped());
    EXPECT_EQ(decision.reason.empty(), !decision.stop);
  }
  out.restored = state.best_epoch();
  EXPECT_EQ(remembered, out.restored);
  return out;
}

TEST(EarlyStopping, StopsAfterPatienceEpochsWithoutImprovement) {
  EXPECT_EQ(stopping({.patience = 2}, {1.0, 0.9, 0.95, 0.96, 0.8}), (Stopping{3, 1}));
  EXPECT_EQ(stopping({.patience = 0}, {1.0, 1.0, 1.0}), (Stopping{1, 0}));
  EXPECT_EQ(stopping({.patience = 0}, {1.0, 0.9, 0.9}), (Stopping{2, 1}));
  EXPECT_EQ(stopping({.patience = 2, .maximize = true}, {0.5, 0.6, 0.6, 0.55}), (Stopping{3, 1}));
}

TEST(EarlyStopping, RestoresTheBestEvenWithoutStopping) {
  EXPECT_EQ(stopping({.patience = 5}, {1.0, 0.9, 0.95}), (Stopping{std::nullopt, 1}));
}

TEST(EarlyStopping, AnImprovementMustExceedMinDelta) {
  EXPECT_EQ(stopping({.min_delta = 0.1, .patience = 1}, {0.8, 0.7, 0.6}), (Stopping{2, 1}));
  EXPECT_EQ(stopping({.min_delta = 0.25, .patience = 1}, {1.0, 0.75}), (Stopping{1, 0}));
}

TEST(EarlyStopping, OnlyBeatingTheBaselineResetsTheWait) {
  EXPECT_EQ(stopping({.patience = 2, .baseline = 0.5}, {1.0, 0.9, 0.8, 0.7, 0.6}), (Stopping{std::nullopt, 4}));
  EXPECT_EQ(stopping({.patience = 2, .baseline = 0.5}, {1.0, 0.9, 0.4, 0.45, 0.46}), (Stopping{4, 2}));
  EXPECT_EQ(stopping({.patience = 3, .baseline = 0.5}, {1.0, 0.9, 0.95, 0.8, 0.85, 0.86}), (Stopping{2, 1}));
}

TEST(EarlyStopping, LooksAwayUntilStartFromEpoch) {
  EXPECT_EQ(stopping({.patience = 2, .start_from_epoch = 2}, {0.1, 0.2, 1.0, 0.9, 0.95, 0.96, 0.97}), (Stopping{5, 3}));
}

TEST(EarlyStopping, NothingBeatsNaNAndNaNBeatsNothing) {
  EXPECT_EQ(stopping({.patience = 2}, {kNaN, 1.0, 0.9, 0.8}), (Stopping{2, 0}));
  EXPECT_EQ(stopping({.patience = 2}, {1.0, kNaN, kNaN}), (Stopping{2, 0}));
}

TEST(EarlyStopping, AMissingMetricIsAWarningAndNoStop) {
  CallbackState state({EarlyStopping{.monitor = "val_loss"}});
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    const EpochDecision decision = state.on_epoch_end(epoch, {{"loss", 1.0}}, 0.1);
    EXPECT_FALSE(decision.stop);
    EXPECT_THAT(decision.warnings, ElementsAre(testing::HasSubstr("val_loss")));
  }
}

TEST(EarlyStopping, OfSeveralTheLastRestores) {
  CallbackState state({EarlyStopping{.monitor = "a", .patience = 9, .restore_best_weights = true},
                       EarlyStopping{.monitor = "b", .patience = 9, .restore_best_weights = true},
                       EarlyStopping{.monitor = "c", .patience = 9}});
  EXPECT_TRUE(state.on_epoch_end(0, {{"a", 1}, {"b", 1}, {"c", 1}}, 0.1).is_best);
  EXPECT_FALSE(state.on_epoch_end(1, {{"a", 0}, {"b", 2}, {"c", 0}}, 0.1).is_best);
  EXPECT_TRUE(state.on_epoch_end(2, {{"a", 1}, {"b", 0}, {"c", 1}}, 0.1).is_best);
  EXPECT_EQ(state.best_epoch(), 2);
}

std::vector<double> rates(ReduceLROnPlateau callback, const std::vector<double>& values) {
  callback.monitor = "loss";
  CallbackState state({callback});
  std::vector<double> out;
  double rate = 0.1;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const EpochDecision decision = state.on_epoch_end(static_cast<std::int64_t>(i), {{"loss", values[i]}}, rate);
    rate = decision.learning_rate;
    EXPECT_FALSE(decision.stop);
    out.push_back(std::stod(std::format("{:.6g}", rate)));
  }
  return out;
}

TEST(ReduceLROnPlateau, CutsTheRateAfterPatienceEpochs) {
  const std::vector<double> flat(8, 1.0);
  EXPECT_THAT(rates({.factor = 0.5, .patience = 2}, flat),
              ElementsAre(0.1, 0.1, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125));
  EXPECT_THAT(rates({.factor = 0.5, .patience = 0}, {1, 1, 1, 1, 1, 1}),
              ElementsAre(0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125));
}

TEST(ReduceLROnPlateau, RestsForTheCooldown) {
  EXPECT_THAT(rates({.factor = 0.5, .patience = 2, .cooldown = 2}, std::vector<double>(8, 1.0)),
              ElementsAre(0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025));
  EXPECT_THAT(rates({.factor = 0.1, .patience = 2, .cooldown = 1}, {1, 0.9, 0.95, 0.8, 0.85, 0.86, 0.87, 0.7}),
              ElementsAre(0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01));
}

TEST(ReduceLROnPlateau, StopsAtMinLr) {
  EXPECT_THAT(rates({.factor = 0.1, .patience = 1, .min_lr = 0.005}, {1, 1, 1, 1, 1, 1}),
              ElementsAre(0.1, 0.01, 0.005, 0.005, 0.005, 0.005));
}

TEST(ReduceLROnPlateau, AnImprovementMustExceedMinDelta) {
  EXPECT_THAT(rates({.factor = 0.5, .patience = 1, .min_delta = 0.1}, {0.5, 0.39999, 0.3, 0.2}),
              ElementsAre(0.1, 0.1, 0.05, 0.05));
  EXPECT_THAT(rates({.factor = 0.5, .patience = 2}, {kNaN, 1, 1, 1}), ElementsAre(0.1, 0.1, 0.05, 0.05));
}

TEST(ReduceLROnPlateau, LogsTheRateForItselfAndThoseAfterIt) {
  CallbackState state({ReduceLROnPlateau{.monitor = "learning_rate", .factor = 0.5, .patience = 1},
                       EarlyStopping{.monitor = "learning_rate", .patience = 1}});
  EXPECT_EQ(state.on_epoch_end(0, {}, 0.1).learning_rate, 0.1);
  const EpochDecision second = state.on_epoch_end(1, {}, 0.1);
  EXPECT_EQ(second.learning_rate, 0.05);
  EXPECT_TRUE(second.stop);
  EXPECT_TRUE(second.warnings.empty());
}

TEST(TerminateOnNaN, EndsOnNaNAndInfinityOnlyWhenAskedFor) {
  const CallbackState with({TerminateOnNaN{}});
  EXPECT_TRUE(with.on_batch_loss(kNaN));
  EXPECT_TRUE(with.on_batch_loss(-std::numeric_limits<double>::infinity()));
  EXPECT_FALSE(with.on_batch_loss(1e300));
  EXPECT_FALSE(CallbackState({}).on_batch_loss(kNaN));
}

TEST(CallbackState, ARestoredOneGoesOnExactly) {
  const std::vector<Callback> callbacks{
      ReduceLROnPlateau{.monitor = "loss", .factor = 0.3, .patience = 2, .cooldown = 1},
      EarlyStopping{.monitor = "acc", .patience = 4, .maximize = true, .restore_best_weights = true}, TerminateOnNaN{}};
  const std::vector<double> losses{kNaN, 0.1 + 0.2, 1.0 / 3, 0.3, 0.3, 0.3, 0.3, 0.29, 0.3, 0.31};
  const auto logs = [&](std::size_t i) {
    return std::vector<Metric>{{"loss", losses[i]}, {"acc", i < 4 ? static_cast<double>(i) / 7 : 0.1}};
  };
  for (std::size_t cut = 0; cut <= losses.size(); ++cut) {
    CallbackState whole(callbacks);
    CallbackState part(callbacks);
    double rate = 0.1;
    for (std::size_t i = 0; i < losses.size(); ++i) {
      if (i == cut) {
        CallbackState next(callbacks);
        ASSERT_TRUE(next.restore(part.save()));
        part = next;
      }
      const EpochDecision a = whole.on_epoch_end(static_cast<std::int64_t>(i), logs(i), rate);
      const EpochDecision b = part.on_epoch_end(static_cast<std::int64_t>(i), logs(i), rate);
      EXPECT_EQ(a.learning_rate, b.learning_rate);
      EXPECT_EQ(a.stop, b.stop);
      EXPECT_EQ(a.is_best, b.is_best);
      rate = a.learning_rate;
    }
    EXPECT_EQ(whole.save(), part.save());
    EXPECT_EQ(whole.best_epoch(), part.best_epoch());
    EXPECT_TRUE(part.stopped());
  }
}

TEST(CallbackState, ADamagedStateIsDataLossAndChangesNothing) {
  CallbackState state({EarlyStopping{.monitor = "loss"}});
  (void)state.on_epoch_end(0, {{"loss", 1.0}}, 0.1);
  const std::string before = state.save();
  for (const std::string_view saved :
       {"", "{}", "[]", R"({"callbacks": [], "stopped": false})", R"({"callbacks": [{}], "stopped": false})",
        R"({"callbacks": [{"wait": 1, "cooldown": 0, "best": "x"}], "stopped": false})",
        R"({"callbacks": [{"wait": -1, "cooldown": 0}], "stopped": false})",
        R"({"callbacks": [{"wait": 1, "cooldown": 0}], "stopped": 1})"}) {
    const auto restored = state.restore(saved);
    ASSERT_FALSE(restored) << saved;
    EXPECT_EQ(restored.error().code, Code::kDataLoss);
    EXPECT_EQ(state.save(), before);
  }
}

}  // namespace
}  // namespace slipway::keras

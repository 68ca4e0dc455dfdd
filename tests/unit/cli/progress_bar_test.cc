#include "cli/progress_bar.h"

#include <gmock/gmock.h>

#include <cmath>

#include "cli/text.h"

namespace slipway::cli {
namespace {

const TrainProgress kProgress{.epoch = 3,
                              .epochs = 5,
                              .step = 840,
                              .steps = 1680,
                              .rows_per_second = 41234,
                              .seconds_left = 9,
                              .learning_rate = 0.001,
                              .metrics = {{"loss", 0.3211}, {"accuracy", 0.8842}}};

TEST(ProgressBar, FillsInHalfCharacters) {
  EXPECT_EQ(bar(0, 4), "    ");
  EXPECT_EQ(bar(0.125, 4), "╸   ");
  EXPECT_EQ(bar(0.5, 4), "━━  ");
  EXPECT_EQ(bar(1, 4), "━━━━");
}

TEST(ProgressBar, ClampsAndTakesNaNForNothing) {
  EXPECT_EQ(bar(-1, 4), "    ");
  EXPECT_EQ(bar(7, 4), "━━━━");
  EXPECT_EQ(bar(std::nan(""), 4), "    ");
}

TEST(ProgressBar, ShowsEverythingWhenThereIsRoom) {
  EXPECT_EQ(training_line(kProgress, 120),
            "epoch 3/5 ━━━━━━━━━━━━              50%  loss 0.3211  accuracy 0.8842  41.2 k rows/s  9.0 s left");
}

TEST(ProgressBar, LeavesOutTheRateThenTheLastMetrics) {
  const std::string narrow = training_line(kProgress, 70);
  EXPECT_THAT(narrow, testing::HasSubstr("accuracy"));
  EXPECT_THAT(narrow, testing::Not(testing::HasSubstr("rows/s")));
  const std::string narrower = training_line(kProgress, 60);
  EXPECT_THAT(narrower, testing::HasSubstr("loss"));
  EXPECT_THAT(narrower, testing::Not(testing::HasSubstr("accuracy")));
}

TEST(ProgressBar, NeverTakesMoreColumnsThanThereAre) {
  for (int width = 0; width < 130; ++width) {
    EXPECT_LE(display_width(training_line(kProgress, width)), static_cast<std::size_t>(width)) << width;
  }
}

TEST(ProgressBar, SurvivesAProgressWithoutSteps) {
  EXPECT_EQ(training_line({.epoch = 1, .epochs = 1, .metrics = {}}, 80), "epoch 1/1 " + std::string(24, ' ') + "   0%");
}

TEST(ProgressBar, SumsUpAnEpochInOneLine) {
  EXPECT_EQ(epoch_line(kProgress), "epoch 3/5  loss 0.3211  accuracy 0.8842  lr 0.001  41.2 k rows/s");
}

TEST(ProgressBar, ShowsATransferWithItsRate) {
  EXPECT_EQ(transfer_line("uploading", 1 << 20, 4 << 20, 0.5, 100),
            "uploading ━━━━━━                    25%  1.0 MiB of 4.0 MiB  2.0 MiB/s");
  EXPECT_EQ(transfer_line("uploading", 1 << 20, 4 << 20, 0.5, 30), "1.0 MiB of 4.0 MiB");
}

}  // namespace
}  // namespace slipway::cli

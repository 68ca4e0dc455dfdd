#include "services/trainer/pace.h"

#include <gtest/gtest.h>

namespace slipway::trainer {
namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

TEST(Pace, PausesDoubleUpToAQuarterOfAMinute) {
  EXPECT_EQ(pause_after(1), 500ms);
  EXPECT_EQ(pause_after(2), 1s);
  EXPECT_EQ(pause_after(5), 8s);
  EXPECT_EQ(pause_after(6), 15s);
  EXPECT_EQ(pause_after(1'000'000), 15s);
}

TEST(Pace, CheckpointsComeNoCloserThanATenthOfASecond) {
  EXPECT_EQ(checkpoint_pause(Seconds(1e-9), true, 0), Seconds(0.1));
  EXPECT_EQ(checkpoint_pause(Seconds(1e-9), false, 0), Seconds(0.1));
  EXPECT_EQ(checkpoint_pause(Seconds(0.25), false, 0), Seconds(0.25));
}

TEST(Pace, AnAttemptsFirstCheckpointComesEarly) {
  EXPECT_EQ(checkpoint_pause(Seconds(600), true, 0), Seconds(10));
  EXPECT_EQ(checkpoint_pause(Seconds(3), true, 0), Seconds(3));
  EXPECT_EQ(checkpoint_pause(Seconds(600), false, 0), Seconds(600));
}

TEST(Pace, RefusedCheckpointsAreTriedLessAndLessOften) {
  EXPECT_EQ(checkpoint_pause(Seconds(0.1), false, 1), Seconds(0.5));
  EXPECT_EQ(checkpoint_pause(Seconds(0.1), false, 6), Seconds(15));
  EXPECT_EQ(checkpoint_pause(Seconds(30), false, 6), Seconds(30));
}

}  // namespace
}  // namespace slipway::trainer

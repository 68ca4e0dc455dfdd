#include "cli/restart_policy.h"

#include <gtest/gtest.h>

namespace slipway::cli {
namespace {

using namespace std::chrono_literals;
constexpr RestartPolicy::Clock::time_point kStart{};

TEST(RestartPolicy, DoublesTheWaitUpToFiveSeconds) {
  RestartPolicy policy;
  policy.started(kStart);
  policy.ready();
  for (const auto wanted : {200ms, 400ms, 800ms, 1600ms, 3200ms, 5000ms, 5000ms}) {
    EXPECT_EQ(policy.ended(kStart + 1s), wanted);
    policy.started(kStart);
  }
}

TEST(RestartPolicy, ForgetsEarlierTroubleOnceAChildRanSteadily) {
  RestartPolicy policy;
  policy.started(kStart);
  policy.ready();
  EXPECT_EQ(policy.ended(kStart), 200ms);
  EXPECT_EQ(policy.ended(kStart + RestartPolicy::kSteady - 1ms), 400ms);
  EXPECT_EQ(policy.ended(kStart + RestartPolicy::kSteady), 200ms);
}

TEST(RestartPolicy, GivesUpAChildThatWasNeverReadyInFiveStarts) {
  RestartPolicy policy;
  for (int i = 0; i < RestartPolicy::kStartsBeforeGivingUp - 1; ++i) EXPECT_TRUE(policy.ended(kStart));
  EXPECT_FALSE(policy.ended(kStart));
}

TEST(RestartPolicy, NeverGivesUpAChildThatWasReadyOnce) {
  RestartPolicy policy;
  policy.ready();
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(policy.ended(kStart));
}

}  // namespace
}  // namespace slipway::cli

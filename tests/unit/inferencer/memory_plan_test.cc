#include "services/inferencer/memory_plan.h"

#include <gtest/gtest.h>

namespace slipway::inferencer {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

TEST(MemoryPlan, DividesWhatThereIs) {
  EXPECT_EQ(plan_memory(4096 * kMiB), (MemoryPlan{.model_bytes = 2048 * kMiB,
                                                  .run_bytes = 1024 * kMiB,
                                                  .queued_bytes = 512 * kMiB,
                                                  .inspect_bytes = 2048 * kMiB}));
}

TEST(MemoryPlan, LeavesRoomToRunInASmallContainer) {
  EXPECT_EQ(
      plan_memory(512 * kMiB),
      (MemoryPlan{
          .model_bytes = 256 * kMiB, .run_bytes = 256 * kMiB, .queued_bytes = 64 * kMiB, .inspect_bytes = 512 * kMiB}));
}

TEST(MemoryPlan, OfALargeMachineBoundsWhatStrangersSend) {
  const MemoryPlan plan = plan_memory(65536 * kMiB);
  EXPECT_EQ(plan.queued_bytes, 1024 * kMiB);
  EXPECT_EQ(plan.inspect_bytes, 4096 * kMiB);
}

}  // namespace
}  // namespace slipway::inferencer

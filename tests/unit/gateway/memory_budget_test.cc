#include "services/gateway/memory_budget.h"

#include <gtest/gtest.h>

namespace slipway::gateway {
namespace {

Code code_of(const Result<void>& result) { return result ? Code{} : result.error().code; }

TEST(MemoryBudget, IsSharedAndGivenBack) {
  MemoryBudget budget(100);
  MemoryShare first(budget);
  EXPECT_TRUE(first.take(60));
  {
    MemoryShare second(budget);
    EXPECT_EQ(code_of(second.take(41)), Code::kOverloaded);
    EXPECT_TRUE(second.take(40));
    EXPECT_EQ(budget.held_bytes(), 100U);
  }
  EXPECT_TRUE(first.take(40));
  EXPECT_EQ(first.held_bytes(), 100U);
}

// To wait and come again would not help.
TEST(MemoryBudget, SaysWhatCanNeverFit) {
  MemoryBudget budget(100);
  MemoryShare share(budget);
  EXPECT_EQ(code_of(share.take(101)), Code::kTooLarge);
  EXPECT_TRUE(share.take(60));
  EXPECT_EQ(code_of(share.take(41)), Code::kTooLarge);
  EXPECT_EQ(code_of(share.take(UINT64_MAX)), Code::kTooLarge);
  EXPECT_EQ(budget.held_bytes(), 60U);
}

TEST(MemoryBudget, KeepsLessOrMoreWhateverTheLimit) {
  MemoryBudget budget(100);
  MemoryShare share(budget);
  EXPECT_TRUE(share.take(60));
  share.keep(10);
  EXPECT_EQ(budget.held_bytes(), 10U);
  share.keep(150);
  EXPECT_EQ(budget.held_bytes(), 150U);
  MemoryShare other(budget);
  EXPECT_EQ(code_of(other.take(1)), Code::kOverloaded);
  share.keep(0);
  EXPECT_TRUE(other.take(100));
}

TEST(MemoryBudget, AShareOfNoneTakesAll) {
  MemoryShare share;
  EXPECT_TRUE(share.take(UINT64_MAX));
  share.keep(5);
}

TEST(MemoryBudget, TakesNothingMoreWhileItsNewLimitIsPassed) {
  MemoryBudget budget(100);
  MemoryShare held(budget);
  EXPECT_TRUE(held.take(60));
  budget.set_limit(50);
  MemoryShare share(budget);
  EXPECT_EQ(code_of(share.take(1)), Code::kOverloaded);
  held.keep(0);
  EXPECT_TRUE(share.take(50));
  budget.set_limit(80);
  EXPECT_TRUE(share.take(30));
}

TEST(MemoryBudget, IsHalfOfAMemoryLimitOfItsOwn) {
  constexpr std::uint64_t kMiB = 1 << 20;
  EXPECT_EQ(default_budget_bytes({.memory_bytes = 512 * kMiB, .memory_is_own = true}), 256 * kMiB);
  EXPECT_EQ(default_budget_bytes({.memory_bytes = 8192 * kMiB, .memory_is_own = true}), 4096 * kMiB);
  EXPECT_EQ(default_budget_bytes({.memory_bytes = 8192 * kMiB, .memory_is_own = false}), 1024 * kMiB);
  EXPECT_EQ(default_budget_bytes({.memory_bytes = 1024 * kMiB, .memory_is_own = false}), 512 * kMiB);
}

}  // namespace
}  // namespace slipway::gateway

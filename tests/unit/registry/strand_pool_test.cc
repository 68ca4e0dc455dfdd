#include "services/registry/strand_pool.h"

#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <vector>

namespace slipway::registry {
namespace {

TEST(StrandPool, KeepsTheOrderWithinAKey) {
  std::vector<int> seen[2];
  {
    StrandPool pool(4);
    for (int i = 0; i < 1000; ++i) {
      EXPECT_TRUE(pool.post("a", [&seen, i] { seen[0].push_back(i); }));
      EXPECT_TRUE(pool.post("b", [&seen, i] { seen[1].push_back(i); }));
    }
  }
  for (const auto& list : seen) {
    ASSERT_EQ(list.size(), 1000U);
    EXPECT_TRUE(std::ranges::is_sorted(list));
  }
}

TEST(StrandPool, RunsDifferentKeysAtOnce) {
  StrandPool pool(2);
  std::latch both(2);
  std::atomic<int> done{0};
  for (const char* key : {"a", "b"}) {
    const bool posted = pool.post(key, [&] {
      both.arrive_and_wait();  // each waits for the other
      ++done;
    });
    EXPECT_TRUE(posted);
  }
  pool.stop();
  EXPECT_EQ(done, 2);
}

TEST(StrandPool, FinishesWhatIsQueuedAndSaysThatItTakesNoMore) {
  std::atomic<int> done{0};
  StrandPool pool(1);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(pool.post({}, [&] { ++done; }));
  pool.stop();
  EXPECT_FALSE(pool.post({}, [&] { ++done; }));
  EXPECT_EQ(done, 10);
}

TEST(StrandPool, GoesOnAfterWorkThatThrows) {
  std::string told;
  int done = 0;
  {
    StrandPool pool(1, [&](const std::exception& failure) { told = failure.what(); });
    EXPECT_TRUE(pool.post("a", [] { throw std::out_of_range("substr"); }));
    EXPECT_TRUE(pool.post("a", [&] { ++done; }));
    EXPECT_TRUE(pool.post("b", [&] { ++done; }));
  }
  EXPECT_EQ(told, "substr");
  EXPECT_EQ(done, 2);
}

}  // namespace
}  // namespace slipway::registry

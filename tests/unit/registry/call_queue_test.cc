#include "services/registry/call_queue.h"

#include <gtest/gtest.h>

#include <string>

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using Rank = CallQueue::Rank;

TEST(CallQueue, TakesCallsUnderALeaseFirst) {
  CallQueue queue(10);
  std::string order;
  for (const char name : {'a', 'b'}) ASSERT_TRUE(queue.push(Rank::kOther, [&order, name] { order += name; }));
  for (const char name : {'1', '2'}) ASSERT_TRUE(queue.push(Rank::kLease, [&order, name] { order += name; }));
  while (auto work = queue.pop(0ms)) work();
  EXPECT_EQ(order, "12ab");
}

TEST(CallQueue, HasRoomForLeasesWhenItIsFullOfReads) {
  CallQueue queue(1);
  ASSERT_TRUE(queue.push(Rank::kOther, [] {}));
  EXPECT_FALSE(queue.push(Rank::kOther, [] {}));
  EXPECT_TRUE(queue.push(Rank::kLease, [] {}));
  EXPECT_FALSE(queue.push(Rank::kLease, [] {}));
}

TEST(CallQueue, EndsOnceItIsClosedAndEmpty) {
  CallQueue queue(1);
  ASSERT_TRUE(queue.push(Rank::kOther, [] {}));
  queue.close();
  EXPECT_FALSE(queue.push(Rank::kLease, [] {}));
  EXPECT_FALSE(queue.ended());
  EXPECT_TRUE(queue.pop(1h));
  EXPECT_TRUE(queue.ended());
  EXPECT_FALSE(queue.pop(1h));
}

}  // namespace
}  // namespace slipway::registry

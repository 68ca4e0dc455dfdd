#include "services/inferencer/batcher.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;
using Reason = Batcher::Reason;
constexpr Batcher::TimePoint kStart{};

std::vector<RequestId> ids(std::initializer_list<std::uint64_t> numbers) {
  std::vector<RequestId> all;
  for (const auto n : numbers) all.push_back(RequestId{n});
  return all;
}

TEST(Batcher, RunsWhateverWaitsAsSoonAsAnInstanceIsFree) {
  Batcher batcher({.max_rows = 4, .max_queued_rows = 6, .max_wait = 0us});
  EXPECT_FALSE(batcher.take(kStart));
  ASSERT_TRUE(batcher.add(RequestId{1}, 1, {}, kStart));
  ASSERT_TRUE(batcher.add(RequestId{2}, 2, {}, kStart));
  const auto batch = batcher.take(kStart);
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->ids, ids({1, 2}));
  EXPECT_EQ(batch->rows, 3);
  EXPECT_EQ(batch->reason, Reason::kFree);
  EXPECT_TRUE(batcher.empty());
}

TEST(Batcher, RunsAShortBatchOnceItsOldestRequestIsDue) {
  Batcher batcher({.max_rows = 4, .max_queued_rows = 6, .max_wait = 2000us});
  ASSERT_TRUE(batcher.add(RequestId{1}, 1, {}, kStart));
  EXPECT_EQ(batcher.due_at(), kStart + 2000us);
  EXPECT_FALSE(batcher.take(kStart + 1999us));
  const auto batch = batcher.take(kStart + 2000us);
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->reason, Reason::kDue);
}

TEST(Batcher, RunsAFullBatchAtOnce) {
  Batcher batcher({.max_rows = 4, .max_queued_rows = 8, .max_wait = 1h});
  ASSERT_TRUE(batcher.add(RequestId{1}, 3, {}, kStart));
  EXPECT_FALSE(batcher.take(kStart));
  ASSERT_TRUE(batcher.add(RequestId{2}, 2, {}, kStart));  // does not fit: the first is as full as it gets
  const auto batch = batcher.take(kStart);
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->ids, ids({1}));
  EXPECT_EQ(batch->reason, Reason::kFull);
  EXPECT_FALSE(batcher.take(kStart));
}

TEST(Batcher, RefusesMoreRowsThanTheQueueHolds) {
  Batcher batcher({.max_rows = 4, .max_queued_rows = 6, .max_wait = 0us});
  ASSERT_TRUE(batcher.add(RequestId{1}, 4, {}, kStart));
  ASSERT_TRUE(batcher.add(RequestId{2}, 2, {}, kStart));
  EXPECT_EQ(batcher.add(RequestId{3}, 1, {}, kStart).error().code, Code::kOverloaded);
  ASSERT_TRUE(batcher.take(kStart));
  EXPECT_TRUE(batcher.add(RequestId{4}, 4, {}, kStart));
}

TEST(Batcher, RefusesNoRowsAndMoreThanABatchHolds) {
  Batcher batcher({.max_rows = 4, .max_queued_rows = 6, .max_wait = 0us});
  EXPECT_EQ(batcher.add(RequestId{1}, 0, {}, kStart).error().code, Code::kInvalidArgument);
  EXPECT_EQ(batcher.add(RequestId{1}, 5, {}, kStart).error().code, Code::kInvalidArgument);
}

TEST(Batcher, NeverMixesGroupsAndServesTheOldestFirst) {
  Batcher batcher({.max_rows = 8, .max_queued_rows = 16, .max_wait = 0us});
  ASSERT_TRUE(batcher.add(RequestId{1}, 1, {20}, kStart));
  ASSERT_TRUE(batcher.add(RequestId{2}, 1, {10}, kStart + 1us));
  ASSERT_TRUE(batcher.add(RequestId{3}, 1, {20}, kStart + 2us));
  EXPECT_EQ(batcher.take(kStart + 3us)->ids, ids({1, 3}));
  EXPECT_EQ(batcher.take(kStart + 3us)->ids, ids({2}));
}

TEST(Batcher, DropsLateRequestsAndOnlyThose) {
  Batcher batcher({.max_rows = 8, .max_queued_rows = 16, .max_wait = 0us});
  ASSERT_TRUE(batcher.add(RequestId{1}, 1, {}, kStart, kStart + 5us));
  ASSERT_TRUE(batcher.add(RequestId{2}, 2, {}, kStart));
  EXPECT_TRUE(batcher.take_late(kStart + 4us).empty());
  EXPECT_EQ(batcher.take_late(kStart + 5us), ids({1}));
  EXPECT_EQ(batcher.queued_rows(), 2);
  EXPECT_EQ(batcher.take(kStart + 5us)->ids, ids({2}));
}

TEST(Batcher, CancelForgetsARequestOnce) {
  Batcher batcher({});
  ASSERT_TRUE(batcher.add(RequestId{1}, 1, {}, kStart));
  EXPECT_TRUE(batcher.cancel(RequestId{1}));
  EXPECT_FALSE(batcher.cancel(RequestId{1}));
  EXPECT_FALSE(batcher.take(kStart));
  EXPECT_EQ(batcher.queued_rows(), 0);
}

// With a scan for each these would be ten thousand million steps.
TEST(Batcher, ManyRequestsAreCancelledAndExpireOneByOne) {
  constexpr std::uint64_t kMany = 100'000;
  Batcher batcher({.max_rows = 8, .max_queued_rows = kMany, .max_wait = 1h});
  for (std::uint64_t id = 1; id <= kMany; ++id)
    ASSERT_TRUE(batcher.add(RequestId{id}, 1, {}, kStart, kStart + std::chrono::microseconds(id)));
  for (std::uint64_t id = kMany; id > 1; id -= 2) ASSERT_TRUE(batcher.cancel(RequestId{id}));
  EXPECT_EQ(batcher.queued_rows(), kMany / 2);
  for (std::uint64_t id = 1; id <= kMany; ++id) {
    const auto late = batcher.take_late(kStart + std::chrono::microseconds(id));
    ASSERT_EQ(late.size(), id % 2) << id;
  }
  EXPECT_TRUE(batcher.empty());
}

// Whatever comes in leaves exactly once: in a batch of its own group within the limit, late, or cancelled.
TEST(Batcher, LosesAndRepeatsNothingInTenThousandRandomHistories) {
  for (unsigned seed = 0; seed < 10'000; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    Batcher batcher({.max_rows = 1 + pick(8),
                     .max_queued_rows = 8 + pick(20),
                     .max_wait = std::chrono::microseconds(pick(3) * 10)});
    const std::int64_t max_rows = 8;
    std::map<std::uint64_t, std::pair<std::int64_t, std::int64_t>> waiting;  // id -> rows, group
    auto now = kStart;
    for (std::uint64_t id = 1; id < 40; ++id) {
      now += std::chrono::microseconds(pick(10));
      const std::int64_t rows = 1 + pick(4);
      const std::int64_t group = pick(3);
      const auto deadline = pick(4) == 0 ? std::optional(now + std::chrono::microseconds(pick(30))) : std::nullopt;
      if (batcher.add(RequestId{id}, rows, {group}, now, deadline)) waiting[id] = {rows, group};
      if (pick(5) == 0 && !waiting.empty()) {
        const auto gone = std::next(waiting.begin(), pick(static_cast<int>(waiting.size())))->first;
        ASSERT_TRUE(batcher.cancel(RequestId{gone})) << seed;
        waiting.erase(gone);
      }
      for (const auto late : batcher.take_late(now))
        ASSERT_EQ(waiting.erase(static_cast<std::uint64_t>(late)), 1U) << seed;
      if (pick(2) == 0) continue;
      if (const auto batch = batcher.take(now)) {
        std::int64_t sum = 0;
        std::set<std::int64_t> groups;
        for (const auto one : batch->ids) {
          const auto found = waiting.find(static_cast<std::uint64_t>(one));
          ASSERT_NE(found, waiting.end()) << seed;
          sum += found->second.first;
          groups.insert(found->second.second);
          waiting.erase(found);
        }
        ASSERT_EQ(sum, batch->rows) << seed;
        ASSERT_LE(sum, max_rows) << seed;
        ASSERT_EQ(groups.size(), 1U) << seed;
      }
    }
    while (const auto batch = batcher.take(now + 1h)) {
      for (const auto one : batch->ids) ASSERT_EQ(waiting.erase(static_cast<std::uint64_t>(one)), 1U) << seed;
    }
    ASSERT_TRUE(waiting.empty()) << seed;
    ASSERT_EQ(batcher.queued_rows(), 0) << seed;
    ASSERT_FALSE(batcher.due_at()) << seed;
  }
}

}  // namespace
}  // namespace slipway::inferencer

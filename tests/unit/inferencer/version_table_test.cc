#include "services/inferencer/version_table.h"

#include <gtest/gtest.h>

#include <string>

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;
using Keys = std::vector<msg::VersionKey>;
constexpr VersionTable::TimePoint kStart{};

msg::VersionKey key(std::uint64_t version, std::string model = "m") { return {std::move(model), version}; }

constexpr std::int64_t kBytes = 100;  // of a version, where nothing else is said

VersionTable::Limits limits(std::size_t max_loaded = 10, std::int64_t max_bytes = 1'000'000) {
  return {.max_loaded = max_loaded, .max_bytes = max_bytes, .first_retry = 1s, .longest_retry = 60s, .linger = 10s};
}

void load_all(VersionTable& versions, VersionTable::TimePoint now) {
  while (const auto next = versions.next_load(now)) versions.loaded(*next, kBytes, now);
}

// As the store does it; nothing is busy.
Keys unload(VersionTable& versions, VersionTable::TimePoint now) {
  Keys gone;
  for (const auto& each : versions.to_unload(now)) {
    if (!versions.may_unload(each, now)) continue;
    versions.unloaded(each);
    gone.push_back(each);
  }
  return gone;
}

TEST(VersionTable, LoadsWhatIsDesiredOnce) {
  VersionTable versions(limits());
  EXPECT_TRUE(versions.settled());
  versions.set_desired("m", {1, 3}, kStart);
  EXPECT_FALSE(versions.settled());
  EXPECT_EQ(versions.next_load(kStart), key(1));
  EXPECT_EQ(versions.next_load(kStart), key(3));
  EXPECT_EQ(versions.next_load(kStart), std::nullopt);
  versions.loaded(key(1), kBytes, kStart);
  versions.loaded(key(3), kBytes, kStart);
  EXPECT_TRUE(versions.settled());
  EXPECT_EQ(versions.ready(), (Keys{key(1), key(3)}));
}

TEST(VersionTable, AVersionSomebodyWaitsForComesFirst) {
  VersionTable versions(limits());
  versions.set_desired("a", {1}, kStart);
  EXPECT_FALSE(*versions.ask(key(9, "z"), kStart));
  EXPECT_EQ(versions.next_load(kStart), key(9, "z"));
}

TEST(VersionTable, KeepsTheOldVersionUntilTheNewOneIsReadyAndTheLingerIsOver) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  load_all(versions, kStart);
  versions.set_desired("m", {2}, kStart);
  EXPECT_TRUE(versions.to_unload(kStart + 1h).empty());
  ASSERT_EQ(versions.next_load(kStart + 1h), key(2));
  versions.loaded(key(2), kBytes, kStart + 1h);
  EXPECT_EQ(versions.to_unload(kStart + 1h), Keys{key(1)});
  ASSERT_TRUE(*versions.ask(key(1), kStart + 1h));
  EXPECT_TRUE(versions.to_unload(kStart + 1h + 9s).empty());
  EXPECT_EQ(versions.next_wake(), kStart + 1h + 10s);
  EXPECT_EQ(versions.to_unload(kStart + 1h + 10s), Keys{key(1)});
  versions.unloaded(key(1));
  EXPECT_EQ(versions.ready(), Keys{key(2)});
}

TEST(VersionTable, OfAModelThatIsNotServedAllVersionsLeaveAndComeBack) {
  VersionTable versions(limits());
  versions.set_desired("m", {2}, kStart);
  ASSERT_FALSE(*versions.ask(key(1), kStart));  // which nobody desires
  load_all(versions, kStart);
  ASSERT_EQ(versions.ready(), (Keys{key(1), key(2)}));
  versions.set_desired("m", {}, kStart + 1s);
  EXPECT_TRUE(versions.to_unload(kStart + 10s).empty()) << "requests may be on their way";
  versions.set_desired("m", {}, kStart + 10s);  // read again
  EXPECT_EQ(unload(versions, kStart + 11s), (Keys{key(1), key(2)}));
  versions.set_desired("m", {2}, kStart + 12s);
  load_all(versions, kStart + 12s);
  EXPECT_EQ(versions.ready(), Keys{key(2)});
  EXPECT_TRUE(versions.to_unload(kStart + 1h).empty());
}

TEST(VersionTable, UnloadsTheLeastRecentlyUsedBeyondEitherLimit) {
  for (const auto& most : {limits(3), limits(10, 3 * kBytes)}) {
    VersionTable versions(most);
    for (const int version : {2, 3, 4}) {
      ASSERT_FALSE(*versions.ask(key(static_cast<std::uint64_t>(version)), kStart + std::chrono::seconds(version)));
      load_all(versions, kStart + std::chrono::seconds(version));
    }
    EXPECT_EQ(unload(versions, kStart + 5s), Keys{});  // exactly full
    ASSERT_TRUE(*versions.ask(key(2), kStart + 20s));
    ASSERT_FALSE(*versions.ask(key(5), kStart + 21s));
    load_all(versions, kStart + 21s);
    EXPECT_EQ(unload(versions, kStart + 22s), Keys{key(3)});
    EXPECT_EQ(versions.ready_bytes(), 3 * kBytes);
  }
}

TEST(VersionTable, ADesiredVersionLeavesLikeAnyOtherAndComesBackWhenAskedFor) {
  VersionTable versions(limits(10, 2 * kBytes));
  versions.set_desired("a", {1}, kStart);
  versions.set_desired("b", {1}, kStart);
  load_all(versions, kStart);
  ASSERT_TRUE(*versions.ask(key(1, "b"), kStart + 1s));
  ASSERT_FALSE(*versions.ask(key(7, "c"), kStart + 2s));
  load_all(versions, kStart + 2s);
  EXPECT_EQ(unload(versions, kStart + 2s), Keys{key(1, "a")});
  EXPECT_EQ(versions.next_load(kStart + 3s), std::nullopt);  // or it would be loaded and unloaded for ever
  EXPECT_TRUE(versions.settled());
  EXPECT_FALSE(*versions.ask(key(1, "a"), kStart + 4s));
  EXPECT_EQ(versions.next_load(kStart + 4s), key(1, "a"));
  versions.loaded(key(1, "a"), kBytes, kStart + 4s);
  EXPECT_EQ(unload(versions, kStart + 4s), Keys{key(1, "b")});
}

TEST(VersionTable, IsSettledWhenWhatFitsHasBeenLoaded) {
  VersionTable versions(limits(10, 4 * kBytes - 1));
  for (int i = 0; i < 100; ++i) versions.set_desired(std::to_string(i), {1}, kStart);
  EXPECT_FALSE(versions.settled());
  load_all(versions, kStart);
  EXPECT_TRUE(versions.settled());
  EXPECT_EQ(versions.ready_count(), 3U);
  EXPECT_EQ(unload(versions, kStart), Keys{});
}

TEST(VersionTable, ANewVersionOfAModelInUseTakesThePlaceOfAnUnusedModel) {
  VersionTable versions(limits(2));
  versions.set_desired("hot", {1}, kStart);
  versions.set_desired("cold", {1}, kStart);
  load_all(versions, kStart);
  ASSERT_TRUE(*versions.ask(key(1, "hot"), kStart + 1s));
  versions.set_desired("hot", {2}, kStart + 2s);
  EXPECT_EQ(versions.next_load(kStart + 2s), key(2, "hot"));
  versions.loaded(key(2, "hot"), kBytes, kStart + 2s);
  EXPECT_EQ(unload(versions, kStart + 2s), Keys{key(1, "cold")});
  // One of a model that nobody uses waits to be asked for.
  versions.set_desired("cold", {1, 2}, kStart + 3s);
  EXPECT_EQ(versions.next_load(kStart + 3s), std::nullopt);
}

TEST(VersionTable, OneThatWouldPushOutWhatIsUsedMoreIsNotLoadedUnasked) {
  VersionTable versions(limits(10, 105));
  versions.set_desired("w", {1}, kStart);
  ASSERT_EQ(versions.next_load(kStart), key(1, "w"));
  ASSERT_FALSE(*versions.ask(key(1, "w"), kStart + 5s));
  versions.loaded(key(1, "w"), 100, kStart + 5s);
  ASSERT_FALSE(*versions.ask(key(1, "x"), kStart + 4s));
  ASSERT_EQ(versions.next_load(kStart + 4s), key(1, "x"));
  versions.loaded(key(1, "x"), 10, kStart + 4s);
  ASSERT_FALSE(*versions.ask(key(1, "y"), kStart + 6s));
  ASSERT_EQ(versions.next_load(kStart + 6s), key(1, "y"));
  versions.loaded(key(1, "y"), 95, kStart + 6s);
  EXPECT_EQ(unload(versions, kStart + 6s), (Keys{key(1, "x"), key(1, "w")}));
  EXPECT_EQ(versions.next_load(kStart + 7s), std::nullopt);  // it is 100 large, and y is 95 and was used later
}

TEST(VersionTable, WhatWasUsedLastStaysEvenBeyondTheLimits) {
  VersionTable versions(limits(1, 10));
  ASSERT_FALSE(*versions.ask(key(1), kStart));
  load_all(versions, kStart);
  EXPECT_EQ(unload(versions, kStart), Keys{});
  ASSERT_FALSE(*versions.ask(key(2), kStart + 1s));
  load_all(versions, kStart + 1s);
  EXPECT_EQ(unload(versions, kStart + 1s), Keys{key(1)});
}

TEST(VersionTable, AVersionThatGrowsPushesOthersOut) {
  VersionTable versions(limits(10, 3 * kBytes));
  for (const int version : {1, 2}) {
    ASSERT_FALSE(*versions.ask(key(static_cast<std::uint64_t>(version)), kStart + std::chrono::seconds(version)));
    load_all(versions, kStart + std::chrono::seconds(version));
  }
  versions.set_bytes(key(2), 3 * kBytes);
  EXPECT_EQ(unload(versions, kStart + 3s), Keys{key(1)});
  EXPECT_EQ(versions.ready_bytes(), 3 * kBytes);
}

TEST(VersionTable, WhatIsGivenUpIsLoadedAfreshForWhoeverAsks) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  load_all(versions, kStart);
  versions.give_up(key(1));
  EXPECT_FALSE(*versions.ask(key(1), kStart + 1s));
  EXPECT_EQ(versions.next_load(kStart + 1s), std::nullopt);  // it is still there
  EXPECT_EQ(unload(versions, kStart + 1s), Keys{key(1)});
  EXPECT_EQ(versions.next_load(kStart + 1s), key(1));
  versions.loaded(key(1), kBytes, kStart + 2s);
  EXPECT_TRUE(*versions.ask(key(1), kStart + 2s));
  EXPECT_EQ(unload(versions, kStart + 3s), Keys{});
}

TEST(VersionTable, BusyOnesDoNotKeepTheNextFromLeaving) {
  VersionTable versions(limits(2));
  for (const int version : {1, 2, 3}) {
    ASSERT_FALSE(*versions.ask(key(static_cast<std::uint64_t>(version)), kStart + std::chrono::seconds(version)));
    load_all(versions, kStart + std::chrono::seconds(version));
  }
  EXPECT_EQ(versions.to_unload(kStart + 4s), (Keys{key(1), key(2)}));
  versions.unloaded(key(2));  // 1 was busy
  EXPECT_FALSE(versions.may_unload(key(1), kStart + 4s));
}

// Counted, not timed: versions looked at while a registry's models are listed, loaded, listed again and asked for.
TEST(VersionTable, ItsCostGrowsWithTheModelsNotWithTheirSquare) {
  const auto looked_at = [](int models) {
    VersionTable versions(limits(100, 1'000'000'000));
    std::set<std::string> names;
    for (int i = 0; i < models; ++i) names.insert(std::to_string(i));
    VersionTable::TimePoint now = kStart;
    for (int listing = 0; listing < 2; ++listing) {
      for (const std::string& name : names) versions.set_desired(name, {1, 2}, now);
      versions.keep_only(names, now);
      while (const auto next = versions.next_load(now)) {
        versions.loaded(*next, kBytes, now);
        unload(versions, now);
      }
      EXPECT_TRUE(versions.settled());
      now += 1s;
    }
    for (const std::string& name : names) {
      static_cast<void>(versions.ask(key(1, name), now += 1ms));
      while (const auto next = versions.next_load(now)) versions.loaded(*next, kBytes, now);
      unload(versions, now);
    }
    versions.keep_only({}, now);
    unload(versions, now + 1h);
    EXPECT_EQ(versions.ready_count(), 0U);
    return versions.looked_at();
  };
  const auto small = looked_at(1'000);
  const auto large = looked_at(10'000);
  EXPECT_LT(large, 12 * small);
  EXPECT_LT(large, 10'000U * 1'000U);
}

TEST(VersionTable, AFailedLoadAnswersWithItsErrorUntilItsBackOffIsOver) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  ASSERT_TRUE(versions.next_load(kStart));
  versions.failed(key(1), {.code = Code::kDataLoss, .message = "damaged", .path = {}}, kStart);
  EXPECT_TRUE(versions.settled());
  const auto asked = versions.ask(key(1), kStart + 400ms);
  ASSERT_FALSE(asked);
  EXPECT_EQ(asked.error().code, Code::kDataLoss);
  EXPECT_EQ(asked.error().retry_after, 600ms);
  EXPECT_EQ(versions.next_load(kStart + 999ms), std::nullopt);
  EXPECT_EQ(versions.next_wake(), kStart + 1s);
  EXPECT_EQ(versions.next_load(kStart + 1s), key(1));
  versions.failed(key(1), {.code = Code::kDataLoss, .message = "damaged", .path = {}}, kStart + 1s);
  EXPECT_EQ(versions.next_load(kStart + 2s), std::nullopt);  // doubled
  EXPECT_EQ(versions.next_load(kStart + 3s), key(1));
}

TEST(VersionTable, ForgetsAFailedVersionThatNobodyWants) {
  VersionTable versions(limits());
  ASSERT_FALSE(*versions.ask(key(77), kStart));
  ASSERT_EQ(versions.next_load(kStart), key(77));
  versions.failed(key(77), {.code = Code::kNotFound, .message = "no such version", .path = {}}, kStart);
  EXPECT_FALSE(versions.ask(key(77), kStart));
  EXPECT_EQ(versions.next_load(kStart + 2s), std::nullopt);
  EXPECT_EQ(versions.next_wake(), std::nullopt);
}

TEST(VersionTable, AReadyVersionThatMayNotRunAnyMoreFailsAndMayBeFreedBeforeItsBackOffIsOver) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  load_all(versions, kStart);
  for (int i = 0; i < 2; ++i)
    versions.failed(key(1), {.code = Code::kInvalidArgument, .message = "quarantined", .path = {}}, kStart);
  EXPECT_EQ(versions.ready_count(), 0U);
  EXPECT_EQ(versions.ready_bytes(), 0);
  EXPECT_FALSE(versions.ask(key(1), kStart + 500ms));
  EXPECT_EQ(versions.next_load(kStart + 500ms), std::nullopt);
  versions.unloaded(key(1));
  EXPECT_EQ(versions.next_load(kStart + 500ms), key(1));
  EXPECT_EQ(versions.next_load(kStart + 1h), std::nullopt);  // it is loading, and nothing else waits
}

TEST(VersionTable, ADeletedModelsVersionsGo) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  versions.set_desired("other", {1}, kStart);
  load_all(versions, kStart);
  versions.keep_only({"other"}, kStart);
  EXPECT_EQ(versions.to_unload(kStart + 10s), Keys{key(1)});
}

TEST(VersionTable, AVersionDesiredAgainStays) {
  VersionTable versions(limits());
  versions.set_desired("m", {1}, kStart);
  load_all(versions, kStart);
  versions.set_desired("m", {}, kStart);
  versions.set_desired("m", {1}, kStart);
  EXPECT_TRUE(versions.to_unload(kStart + 1h).empty());
}

TEST(RevisionWatch, AGapAndAStepBackAreMissedMessages) {
  RevisionWatch watch;
  EXPECT_TRUE(watch.missed(7));
  EXPECT_FALSE(watch.missed(8));
  EXPECT_FALSE(watch.missed(8));  // the same commit, or nothing new
  EXPECT_TRUE(watch.missed(10));
  EXPECT_FALSE(watch.missed(11));
  EXPECT_TRUE(watch.missed(3));
}

TEST(VersionTable, ASmallerLimitOfMemoryTakesTheLeastRecentlyUsed) {
  VersionTable versions(limits(10, 3 * kBytes));
  versions.set_desired("a", {1}, kStart);
  versions.set_desired("b", {1}, kStart);
  versions.set_desired("c", {1}, kStart);
  load_all(versions, kStart);
  EXPECT_TRUE(*versions.ask(key(1, "a"), kStart + 1s));
  EXPECT_TRUE(*versions.ask(key(1, "c"), kStart + 2s));
  versions.set_max_bytes(kBytes);
  EXPECT_EQ(unload(versions, kStart + 3s), (Keys{key(1, "b"), key(1, "a")}));
  EXPECT_EQ(versions.next_load(kStart + 4s), std::nullopt);
  versions.set_max_bytes(2 * kBytes);
  EXPECT_EQ(versions.next_load(kStart + 5s), key(1, "a"));
}

}  // namespace
}  // namespace slipway::inferencer

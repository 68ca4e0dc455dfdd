#include "services/inferencer/version_table.h"

#include <gtest/gtest.h>

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;
using Keys = std::vector<msg::VersionKey>;
constexpr VersionTable::TimePoint kStart{};

msg::VersionKey key(std::uint64_t version, std::string model = "m") { return {std::move(model), version}; }

VersionTable table(std::size_t max_loaded = 2) {
  return VersionTable({.max_loaded = max_loaded, .first_retry = 1s, .longest_retry = 60s, .linger = 10s});
}

void load_all(VersionTable& versions, VersionTable::TimePoint now) {
  while (const auto next = versions.next_load(now)) versions.loaded(*next, now);
}

TEST(VersionTable, LoadsWhatIsDesiredOnce) {
  auto versions = table();
  EXPECT_TRUE(versions.settled());
  versions.set_desired("m", {1, 3}, kStart);
  EXPECT_FALSE(versions.settled());
  EXPECT_EQ(versions.next_load(kStart), key(1));
  EXPECT_EQ(versions.next_load(kStart), key(3));
  EXPECT_EQ(versions.next_load(kStart), std::nullopt);
  versions.loaded(key(1), kStart);
  versions.loaded(key(3), kStart);
  EXPECT_TRUE(versions.settled());
  EXPECT_EQ(versions.ready(), (Keys{key(1), key(3)}));
}

TEST(VersionTable, AVersionSomebodyWaitsForComesFirst) {
  auto versions = table();
  versions.set_desired("a", {1}, kStart);
  EXPECT_FALSE(*versions.ask(key(9, "z"), kStart));
  EXPECT_EQ(versions.next_load(kStart), key(9, "z"));
}

TEST(VersionTable, KeepsTheOldVersionUntilTheNewOneIsReadyAndTheLingerIsOver) {
  auto versions = table();
  versions.set_desired("m", {1}, kStart);
  load_all(versions, kStart);
  versions.set_desired("m", {2}, kStart);
  EXPECT_TRUE(versions.to_unload(kStart + 1h).empty());
  ASSERT_EQ(versions.next_load(kStart + 1h), key(2));
  versions.loaded(key(2), kStart + 1h);
  EXPECT_EQ(versions.to_unload(kStart + 1h), Keys{key(1)});
  ASSERT_TRUE(*versions.ask(key(1), kStart + 1h));
  EXPECT_TRUE(versions.to_unload(kStart + 1h + 9s).empty());
  EXPECT_EQ(versions.next_wake(), kStart + 1h + 10s);
  EXPECT_EQ(versions.to_unload(kStart + 1h + 10s), Keys{key(1)});
  versions.unloaded(key(1));
  EXPECT_EQ(versions.ready(), Keys{key(2)});
}

TEST(VersionTable, UnloadsTheLeastRecentlyUsedBeyondTheLimitAndNeverADesiredOne) {
  auto versions = table(3);
  versions.set_desired("m", {1}, kStart);
  for (const int version : {2, 3, 4}) {
    ASSERT_FALSE(*versions.ask(key(static_cast<std::uint64_t>(version)), kStart + std::chrono::seconds(version)));
    load_all(versions, kStart + std::chrono::seconds(version));
  }
  ASSERT_TRUE(*versions.ask(key(2), kStart + 20s));
  EXPECT_EQ(versions.to_unload(kStart + 21s), Keys{key(3)});
}

TEST(VersionTable, DesiredVersionsBeyondTheLimitLeaveRoomForOneMore) {
  auto versions = table(1);
  versions.set_desired("m", {1, 2, 3}, kStart);
  ASSERT_FALSE(*versions.ask(key(9), kStart));
  load_all(versions, kStart);
  EXPECT_TRUE(versions.to_unload(kStart + 1h).empty());
}

TEST(VersionTable, AFailedLoadAnswersWithItsErrorUntilItsBackOffIsOver) {
  auto versions = table();
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
  auto versions = table();
  ASSERT_FALSE(*versions.ask(key(77), kStart));
  ASSERT_EQ(versions.next_load(kStart), key(77));
  versions.failed(key(77), {.code = Code::kNotFound, .message = "no such version", .path = {}}, kStart);
  EXPECT_FALSE(versions.ask(key(77), kStart));
  EXPECT_EQ(versions.next_load(kStart + 2s), std::nullopt);
  EXPECT_EQ(versions.next_wake(), std::nullopt);
}

TEST(VersionTable, ADeletedModelsVersionsGo) {
  auto versions = table();
  versions.set_desired("m", {1}, kStart);
  versions.set_desired("other", {1}, kStart);
  load_all(versions, kStart);
  versions.keep_only({"other"}, kStart);
  EXPECT_EQ(versions.to_unload(kStart + 10s), Keys{key(1)});
}

TEST(VersionTable, AVersionDesiredAgainStays) {
  auto versions = table();
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
  EXPECT_TRUE(watch.missed(10));
  EXPECT_FALSE(watch.missed(11));
  EXPECT_TRUE(watch.missed(3));
}

}  // namespace
}  // namespace slipway::inferencer

#include "services/registry/lease_table.h"

#include <gmock/gmock.h>

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using testing::SizeIs;

constexpr LeaseTable::TimePoint kStart{};
const JobId kJob("job-1");
const WorkerId kHolder("w1");

Lease lease(std::uint64_t epoch, const std::string& holder = "w1") {
  return {.job = kJob, .epoch = epoch, .holder = WorkerId(holder)};
}

TEST(LeaseTable, EndsALeaseAfterItsDurationAndNotBefore) {
  LeaseTable table(1000ms);
  table.grant(lease(1), kStart);
  EXPECT_THAT(table.take_expired(kStart + 999ms), SizeIs(0));
  const auto expired = table.take_expired(kStart + 1000ms);
  ASSERT_THAT(expired, SizeIs(1));
  EXPECT_EQ(expired[0].epoch, 1U);
  EXPECT_EQ(expired[0].holder, kHolder);
  EXPECT_EQ(table.size(), 0U);
}

TEST(LeaseTable, RenewsTheFullDuration) {
  LeaseTable table(1000ms);
  table.grant(lease(1), kStart);
  ASSERT_TRUE(table.renew(lease(1), kStart + 900ms));
  EXPECT_THAT(table.take_expired(kStart + 1899ms), SizeIs(0));
  EXPECT_THAT(table.take_expired(kStart + 1900ms), SizeIs(1));
}

TEST(LeaseTable, KeepsALateHolderUntilItIsTakenOut) {
  LeaseTable table(1000ms);
  table.grant(lease(1), kStart);
  EXPECT_TRUE(table.renew(lease(1), kStart + 5000ms));
}

TEST(LeaseTable, RefusesAnOldEpochAnotherHolderAndALeaseThatEnded) {
  LeaseTable table(1000ms);
  EXPECT_EQ(table.check(lease(1)).error().code, Code::kConflict);
  table.grant(lease(2), kStart);
  EXPECT_TRUE(table.check(lease(2)));
  EXPECT_EQ(table.check(lease(1)).error().code, Code::kConflict);
  EXPECT_EQ(table.check(lease(3)).error().code, Code::kConflict);
  EXPECT_EQ(table.renew(lease(2, "w2"), kStart).error().code, Code::kConflict);
  table.release(kJob);
  EXPECT_EQ(table.renew(lease(2), kStart).error().code, Code::kConflict);
}

TEST(LeaseTable, ANewGrantTakesTheOldOnesPlace) {
  LeaseTable table(1000ms);
  table.grant(lease(1), kStart);
  table.grant(lease(2, "w2"), kStart + 500ms);
  EXPECT_EQ(table.check(lease(1)).error().code, Code::kConflict);
  EXPECT_THAT(table.take_expired(kStart + 1499ms), SizeIs(0));
}

TEST(LeaseTable, ExtendsEveryLeaseByAPause) {
  LeaseTable table(1000ms);
  table.grant(lease(1), kStart);
  table.extend_all(3000ms);
  EXPECT_THAT(table.take_expired(kStart + 3999ms), SizeIs(0));
  EXPECT_THAT(table.take_expired(kStart + 4000ms), SizeIs(1));
}

TEST(LeaseTable, BelievesTheTokenAndNotTheNames) {
  LeaseTable table(1000ms);
  Lease held = lease(1);
  held.token = "0123456789abcdef0123456789abcdef";
  table.grant(held, kStart);
  EXPECT_TRUE(table.check(held));
  EXPECT_EQ(table.check(lease(1)).error().code, Code::kConflict);
  Lease guessed = held;
  guessed.token.back() = '0';
  EXPECT_EQ(table.renew(guessed, kStart).error().code, Code::kConflict);
  // Of an earlier release there is none.
  table.grant(lease(2), kStart);
  EXPECT_TRUE(table.check(lease(2)));
}

}  // namespace
}  // namespace slipway::registry

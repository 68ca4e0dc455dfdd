#include "services/gateway/job_dispatcher.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
constexpr WorkerTable::TimePoint kStart{};

struct JobDispatcherTest : testing::Test {
  WorkerTable workers{"r"};
  JobDispatcher dispatcher{workers};
  JobDispatcher::Actions out;

  void SetUp() override {
    ASSERT_TRUE(workers.on_hello(
        "t", {.release = "r", .role = msg::Role::kTrainer, .worker_id = WorkerId("w"), .host = ""}, kStart));
    ASSERT_TRUE(workers.on_heartbeat("t", {.credits = 1, .loaded = {}, .draining = false}, kStart));
  }
  static msg::RunJob run() {
    msg::RunJob run;
    run.job.id = JobId("j");
    run.lease = {.job = JobId("j"), .epoch = 3, .holder = WorkerId("w"), .duration_ms = 10'000};
    return run;
  }
  std::uint64_t claim() {
    dispatcher.wake(kStart, out);
    EXPECT_EQ(out.size(), 1U);
    const auto number = std::get<Claim>(out.at(0)).number;
    out.clear();
    return number;
  }
  HandOver hand_over() {
    const auto number = claim();
    dispatcher.on_claimed(number, run(), kStart, out);
    EXPECT_EQ(out.size(), 1U);
    auto handed = std::get<HandOver>(out.at(0));
    out.clear();
    return handed;
  }
  void expect_given_back() {
    ASSERT_EQ(out.size(), 1U);
    const auto& end = std::get<GiveBack>(out[0]).end;
    EXPECT_EQ(end.outcome, msg::Outcome::kReleased);
    EXPECT_EQ(end.lease.epoch, 3U);
  }
};

TEST_F(JobDispatcherTest, ClaimsOnceForATrainerWithCredit) {
  dispatcher.wake(kStart, out);
  dispatcher.wake(kStart, out);
  ASSERT_EQ(out.size(), 1U);
  EXPECT_EQ(std::get<Claim>(out[0]).worker, WorkerId("w"));
}

TEST_F(JobDispatcherTest, AsksAgainEverySecondWhenNoneWaited) {
  const auto number = claim();
  dispatcher.on_claimed(number, std::nullopt, kStart, out);
  dispatcher.on_tick(kStart + 999ms, out);
  EXPECT_TRUE(out.empty());
  dispatcher.on_tick(kStart + 1s, out);
  EXPECT_EQ(out.size(), 1U);
}

TEST_F(JobDispatcherTest, AnAcceptedJobSpendsTheCreditUntilTheNextHeartbeat) {
  const auto handed = hand_over();
  dispatcher.on_accepted("t", handed.attempt, kStart, out);
  EXPECT_TRUE(out.empty());
  ASSERT_TRUE(workers.on_heartbeat("t", {.credits = 1, .loaded = {}, .draining = false}, kStart));
  dispatcher.wake(kStart, out);
  EXPECT_EQ(out.size(), 1U);
}

TEST_F(JobDispatcherTest, ARefusedJobGoesBack) {
  const auto handed = hand_over();
  dispatcher.on_refused("t", handed.attempt, "busy", kStart, out);
  expect_given_back();
}

TEST_F(JobDispatcherTest, AnUnansweredJobGoesBack) {
  hand_over();
  dispatcher.on_tick(kStart + JobDispatcher::kAcceptWithin, out);
  expect_given_back();
}

TEST_F(JobDispatcherTest, ALostTrainersJobGoesBack) {
  hand_over();
  workers.remove("t");
  dispatcher.on_peer_lost("t", out);
  expect_given_back();
}

TEST_F(JobDispatcherTest, AClaimForATrainerThatHasGoneGoesBack) {
  const auto number = claim();
  workers.remove("t");
  dispatcher.on_claimed(number, run(), kStart, out);
  expect_given_back();
}

TEST_F(JobDispatcherTest, AJobThatComesAfterItsClaimWasGivenUpGoesBack) {
  dispatcher.wake(kStart, out);
  const auto first = std::get<Claim>(out.at(0)).number;
  out.clear();
  dispatcher.on_tick(kStart + JobDispatcher::kClaimWithin, out);
  ASSERT_EQ(out.size(), 1U);  // the trainer is asked for again meanwhile
  const auto second = std::get<Claim>(out[0]).number;
  out.clear();
  dispatcher.on_claimed(first, run(), kStart, out);
  expect_given_back();
  out.clear();
  dispatcher.on_claimed(second, run(), kStart, out);
  ASSERT_EQ(out.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<HandOver>(out[0]));
}

TEST_F(JobDispatcherTest, ClaimsNothingOnceStopped) {
  dispatcher.stop();
  dispatcher.wake(kStart, out);
  EXPECT_TRUE(out.empty());
}

}  // namespace
}  // namespace slipway::gateway

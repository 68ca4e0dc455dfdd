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
  HandOver hand_over() {
    dispatcher.wake(kStart, out);
    out.clear();
    dispatcher.on_claimed("t", run(), kStart, out);
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
  dispatcher.wake(kStart, out);
  out.clear();
  dispatcher.on_claimed("t", std::nullopt, kStart, out);
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
  dispatcher.wake(kStart, out);
  out.clear();
  workers.remove("t");
  dispatcher.on_claimed("t", run(), kStart, out);
  expect_given_back();
}

TEST_F(JobDispatcherTest, ClaimsNothingOnceStopped) {
  dispatcher.stop();
  dispatcher.wake(kStart, out);
  EXPECT_TRUE(out.empty());
}

}  // namespace
}  // namespace slipway::gateway

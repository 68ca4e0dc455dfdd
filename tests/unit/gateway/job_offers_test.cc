#include "services/gateway/job_offers.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
constexpr WorkerTable::TimePoint kFirstOffer{};

struct JobOffersTest : testing::Test {
  WorkerTable workers{"r"};
  JobOffers offers{workers};

  void join(const Peer& peer, bool idle = true) {
    ASSERT_TRUE(workers.on_hello(
        peer, {.release = "r", .role = msg::Role::kTrainer, .worker_id = WorkerId(peer), .host = ""}, kFirstOffer));
    beat(peer, idle);
  }
  void beat(const Peer& peer, bool idle, bool draining = false) {
    ASSERT_TRUE(
        workers.on_heartbeat(peer, {.credits = idle ? 1U : 0U, .loaded = {}, .draining = draining}, kFirstOffer));
  }
  void queue(const std::string& job, WorkerTable::TimePoint now = kFirstOffer) {
    offers.on_job(JobId(job), JobState::kQueued, now);
  }
  // "peer job" of each.
  std::vector<std::string> at(WorkerTable::TimePoint now) {
    std::vector<std::string> told;
    for (const auto& offer : offers.offers(now)) told.push_back(offer.peer + " " + offer.job.text());
    return told;
  }
};

TEST_F(JobOffersTest, OffersEachWaitingJobToAnIdleTrainer) {
  for (const char* peer : {"a", "b", "c"}) join(peer);
  queue("j1");
  queue("j2");
  EXPECT_THAT(at(kFirstOffer), ElementsAre("a j1", "b j2"));
  EXPECT_THAT(at(kFirstOffer), IsEmpty()) << "they are on their way";
}

TEST_F(JobOffersTest, OffersNothingToWhoIsBusyOrDrains) {
  join("a", false);
  join("b");
  beat("b", true, true);
  queue("j1");
  EXPECT_THAT(at(kFirstOffer), IsEmpty());
  beat("a", true);
  EXPECT_THAT(at(kFirstOffer), ElementsAre("a j1"));
}

TEST_F(JobOffersTest, OffersAgainAfterASecondAndToAnotherTrainerFirst) {
  join("a");
  join("b");
  queue("j1");
  EXPECT_THAT(at(kFirstOffer), ElementsAre("a j1"));
  EXPECT_THAT(at(kFirstOffer + 1s), ElementsAre("b j1"))
      << "the first offer may have been lost, or the trainer be stuck";
  EXPECT_THAT(at(kFirstOffer + 2s), ElementsAre("a j1"));
}

TEST_F(JobOffersTest, ATrainerThatWasBusyMeanwhileIsOfferedTheNextJobAtOnce) {
  join("a");
  queue("j1");
  EXPECT_THAT(at(kFirstOffer), ElementsAre("a j1"));
  offers.on_job(JobId("j1"), JobState::kStarting, kFirstOffer);
  beat("a", false);
  queue("j2", kFirstOffer + 100ms);
  EXPECT_THAT(at(kFirstOffer + 100ms), IsEmpty());
  beat("a", true);
  EXPECT_THAT(at(kFirstOffer + 200ms), ElementsAre("a j2"));
}

TEST_F(JobOffersTest, AJobThatWasTakenIsOfferedNoMore) {
  join("a");
  queue("j1");
  queue("j2");
  for (const JobState state : {JobState::kStarting, JobState::kRunning, JobState::kCancelled})
    offers.on_job(JobId("j1"), state, kFirstOffer);
  offers.on_job(JobId("j2"), JobState::kRetrying, kFirstOffer);
  EXPECT_THAT(at(kFirstOffer), ElementsAre("a j2"));
}

// Its change of state may have been missed; should it wait after all, trainers find it by themselves.
TEST_F(JobOffersTest, AJobIsNotOfferedForEver) {
  join("a");
  queue("j1");
  EXPECT_THAT(at(kFirstOffer + 29s), ElementsAre("a j1"));
  EXPECT_THAT(at(kFirstOffer + 30s), IsEmpty());
  EXPECT_EQ(offers.waiting(), 0U);
}

TEST_F(JobOffersTest, RemembersSoManyJobsAndNotMore) {
  for (std::size_t i = 0; i < 2 * JobOffers::kMaxJobs; ++i) queue("j" + std::to_string(i));
  EXPECT_EQ(offers.waiting(), JobOffers::kMaxJobs);
}

TEST_F(JobOffersTest, AStoppingGatewayOffersNothing) {
  join("a");
  queue("j1");
  offers.stop();
  EXPECT_THAT(at(kFirstOffer), IsEmpty());
}

}  // namespace
}  // namespace slipway::gateway

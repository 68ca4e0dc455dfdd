#include "services/registry/job_book.h"

#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

const WorkerId kWorker("w1");

class JobBookTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    put_dataset("d");
  }

  Job create(const std::string& key = "", const std::string& document = "{}") {
    auto job = submit(key, document);
    EXPECT_TRUE(job) << job.error().message;
    return *job;
  }
  Result<Job> submit(const std::string& key, const std::string& document = "{}", const std::string& actor = "") {
    msg::CreateJob question;
    question.job.document = document;
    question.job.actor = actor;
    question.job.model = "m";
    question.job.dataset = "d";
    question.job.seed = 7;
    question.idempotency_key = key;
    return jobs_->create(question, now());
  }
  Lease claim(const WorkerId& worker = kWorker) {
    auto run = jobs_->claim({.worker = worker}, now());
    EXPECT_TRUE(run) << run.error().message;
    return run->lease;
  }
  Result<msg::JobOrders> report(const Lease& lease, std::vector<std::string> kinds = {}) {
    msg::ReportJob question{.lease = lease, .events = {}};
    for (const auto& kind : kinds) {
      JobEvent event;
      event.kind = kind;
      event.progress.step = ++step_;
      question.events.push_back(event);
    }
    return jobs_->report(question, now());
  }
  Result<Version> publish(const Lease& lease) {
    return jobs_->publish(
        {.lease = lease, .upload = UploadId("u"), .signature = some_signature(), .metrics = {{"accuracy", 0.9}}},
        std::vector{stored_file("model.pt", "weights")}, now());
  }
  // An attempt that lives for `time`, reporting, and is then lost.
  void lose_after(std::chrono::milliseconds time) {
    const Lease lease = claim();
    const auto end = clock_ + time;
    for (; clock_ < end; clock_ += 900ms) ASSERT_TRUE(report(lease));
    clock_ += 1000ms;
    ASSERT_TRUE(jobs_->expire(now()));
  }
  Result<void> checkpoint(const Lease& lease, const std::string& upload) {
    return jobs_->commit_checkpoint({.lease = lease, .upload = UploadId(upload)}, std::vector{stored_file("c", upload)},
                                    now());
  }
  Result<void> end(const Lease& lease, msg::Outcome outcome, bool retry = false) {
    return jobs_->end_attempt(
        {.lease = lease, .outcome = outcome, .reason = "NAN_LOSS", .message = "loss is nan", .retry = retry}, now());
  }
  [[nodiscard]] Job job(const JobId& id = JobId("job-1")) const { return jobs_->get(id).value(); }
  [[nodiscard]] std::vector<std::string> history(const JobId& id = JobId("job-1")) const {
    std::vector<std::string> kinds;
    const auto events = jobs_->events({.job = id}).value();
    for (const JobEvent& event : events) {
      kinds.push_back(event.kind == "state" ? std::to_string(static_cast<int>(event.state)) : event.kind);
    }
    return kinds;
  }
  std::uint64_t step_ = 0;
};

TEST_F(JobBookTest, CreatesJobsWithDenseIdsAcrossRestarts) {
  const Job first = create();
  EXPECT_EQ(first.id, JobId("job-1"));
  EXPECT_EQ(first.state, JobState::kQueued);
  EXPECT_EQ(first.document, "{}");
  EXPECT_EQ(first.spec_digest, sha256("{}"));
  EXPECT_EQ(first.dataset_version, 1U);
  EXPECT_EQ(first.dataset_digest, sha256("content"));
  EXPECT_EQ(first.seed, 7U);
  reopen();
  EXPECT_EQ(job(), first);
  EXPECT_EQ(create().id, JobId("job-2"));
  const auto listed = jobs_->list({}).value();
  ASSERT_EQ(listed.size(), 2U);
  EXPECT_EQ(listed[0].id, JobId("job-2"));
  EXPECT_EQ(listed[0].document, "");
  EXPECT_EQ(jobs_->list({.before = JobId("job-2")})->size(), 1U);
  EXPECT_EQ(jobs_->get(JobId("job-3")).error().code, Code::kNotFound);
}

TEST_F(JobBookTest, AnswersTheSameJobToTheSameIdempotencyKey) {
  const std::string key(255, 'k');
  const Job first = create(key);
  reopen();
  EXPECT_EQ(create(key), first);
  EXPECT_EQ(create("other").id, JobId("job-2"));
  EXPECT_EQ(submit(key + "k").error().code, Code::kTooLarge);
}

TEST_F(JobBookTest, RefusesTheSameKeyForAnotherDocument) {
  create("key");
  const auto other = submit("key", "{ }");
  EXPECT_EQ(other.error().code, Code::kConflict);
  EXPECT_THAT(other.error().message, HasSubstr("job-1"));
  EXPECT_THAT(other.error().message, HasSubstr(to_hex(sha256("{}"))));
  EXPECT_THAT(other.error().message, HasSubstr(to_hex(sha256("{ }"))));
}

TEST_F(JobBookTest, KeepsTheKeysOfOneActorFromAnother) {
  create("key");
  const auto ann = submit("key", "{ }", "ann").value();
  EXPECT_EQ(ann.id, JobId("job-2"));
  EXPECT_EQ(ann.actor, "ann");
  EXPECT_EQ(submit("key", "{}", "bob")->id, JobId("job-3"));
  EXPECT_EQ(submit("key", "{ }", "ann")->id, JobId("job-2"));
}

TEST_F(JobBookTest, ForgetsAKeyAfterADay) {
  create("key");
  create("other");
  clock_ = 24h - 1ms;
  ASSERT_TRUE(jobs_->purge_marks(now()));
  EXPECT_EQ(create("key").id, JobId("job-1"));
  clock_ = 24h;
  EXPECT_EQ(create("key", "{ }").id, JobId("job-3"));
  Batch batch;
  EXPECT_TRUE(RepeatMarks(*store_).purge(batch, now().unix_ms, 1).value()) << "more are due";
  EXPECT_FALSE(jobs_->purge_marks(now()).value());
  EXPECT_EQ(create("key", "{ }").id, JobId("job-3"));
  std::size_t marks = 0;
  ASSERT_TRUE(store_->scan(Family::kMeta, "submitted/", "submitted0", [&](auto, auto) -> Result<bool> {
    ++marks;
    return true;
  }));
  EXPECT_EQ(marks, 1U);
}

TEST_F(JobBookTest, ReadsTheKeysOfAnEarlierRelease) {
  create();
  Batch batch;
  batch.put(Family::kMeta, "idempotency/key", number_key(1));
  ASSERT_TRUE(store_->commit(std::move(batch)));
  EXPECT_EQ(create("key").id, JobId("job-1"));
  EXPECT_EQ(submit("key", "{ }").error().code, Code::kConflict);
  EXPECT_EQ(submit("key", "{}", "ann")->id, JobId("job-1"));
  EXPECT_EQ(submit("key", "{ }", "ann")->id, JobId("job-2"));
  clock_ = 24h;
  ASSERT_TRUE(jobs_->purge_marks(now()));
  EXPECT_EQ(create("key").id, JobId("job-3"));
}

TEST_F(JobBookTest, RefusesAJobItCannotKeep) {
  msg::CreateJob question;
  question.job.document = "{}";
  question.job.model = "m";
  question.job.dataset = "none";
  auto refused = jobs_->create(question, now());
  EXPECT_EQ(refused.error().code, Code::kNotFound);
  EXPECT_EQ(refused.error().path, "$.dataset");
  question.job.dataset = "d";
  question.job.dataset_version = 2;
  EXPECT_EQ(jobs_->create(question, now()).error().code, Code::kNotFound);
  question.job.dataset_version = 1;
  question.job.model = "no/name";
  EXPECT_EQ(jobs_->create(question, now()).error().path, "$.publish.model");
  question.job.model = "m";
  question.job.document = "";
  EXPECT_EQ(jobs_->create(question, now()).error().code, Code::kInvalidArgument);
  question.job.document.assign(limits_.max_document_bytes + 1, ' ');
  EXPECT_EQ(jobs_->create(question, now()).error().code, Code::kTooLarge);
  EXPECT_EQ(create().id, JobId("job-1"));
}

TEST_F(JobBookTest, TellsARepeatedReportOnce) {
  create();
  const Lease lease = claim();
  const auto event = [](const std::string& kind, std::uint64_t step) {
    JobEvent made;
    made.kind = kind;
    made.progress.step = step;
    return made;
  };
  const auto tell = [&](std::vector<JobEvent> events) {
    return jobs_->report({.lease = lease, .events = std::move(events)}, now());
  };
  ASSERT_TRUE(tell({event("epoch", 1), event("progress", 2)}));
  ASSERT_TRUE(tell({}));
  ASSERT_TRUE(tell({event("epoch", 1), event("progress", 2)}));
  // The last progress of the lost report has given way to a newer one, and more has come.
  ASSERT_TRUE(tell({event("epoch", 1), event("progress", 3), event("warning", 3)}));
  EXPECT_THAT(history(), ElementsAre("0", "1", "2", "epoch", "progress", "progress", "warning"));
  // Another attempt may well tell the same.
  ASSERT_TRUE(end(lease, msg::Outcome::kReleased));
  const Lease next = claim();
  ASSERT_TRUE(jobs_->report({.lease = next, .events = {event("epoch", 1)}}, now()));
  EXPECT_EQ(history().back(), "epoch");
}

TEST_F(JobBookTest, KnowsANumberedReportAlsoAfterARestart) {
  create();
  const Lease lease = claim();
  const auto tell = [&](std::uint64_t number) {
    JobEvent event;
    event.kind = "warning";
    event.message = "the same words";
    return jobs_->report({.lease = lease, .events = {event}, .number = number}, now());
  };
  ASSERT_TRUE(tell(1));
  ASSERT_TRUE(tell(1));
  ASSERT_TRUE(tell(2));  // another one with the same words
  reopen();
  ASSERT_TRUE(tell(2));
  ASSERT_TRUE(tell(3));
  EXPECT_THAT(history(), ElementsAre("0", "1", "2", "warning", "warning", "warning"));
  // The next attempt counts from 1 again.
  ASSERT_TRUE(end(lease, msg::Outcome::kReleased));
  JobEvent event;
  event.kind = "warning";
  ASSERT_TRUE(jobs_->report({.lease = claim(), .events = {event}, .number = 1}, now()));
  EXPECT_EQ(history().back(), "warning");
}

TEST_F(JobBookTest, BoundsWhatATrainerTells) {
  create();
  const Lease lease = claim();
  JobEvent event;
  event.kind = "warning";
  event.message.assign(100'000, 'w');
  event.progress.metrics.resize(5'000);
  ASSERT_TRUE(jobs_->report({.lease = lease, .events = {event}, .number = 1}, now()));
  EXPECT_LT(encode_record(jobs_->events({.job = lease.job})->back()).size(), 100'000U);
  EXPECT_EQ(end(lease, static_cast<msg::Outcome>(9)).error().code, Code::kInvalidArgument);
}

TEST_F(JobBookTest, BelievesOnlyTheHolderOfTheToken) {
  create();
  const Lease lease = claim();
  EXPECT_EQ(lease.token.size(), 32U);
  Lease stranger = lease;
  stranger.token = std::string(32, '0');
  Lease none = lease;
  none.token.clear();
  for (const Lease& wrong : {stranger, none}) {
    EXPECT_EQ(report(wrong).error().code, Code::kConflict);
    EXPECT_EQ(checkpoint(wrong, "u").error().code, Code::kConflict);
    EXPECT_EQ(publish(wrong).error().code, Code::kConflict);
    EXPECT_EQ(end(wrong, msg::Outcome::kFailed).error().code, Code::kConflict);
  }
  reopen();
  EXPECT_EQ(report(stranger).error().code, Code::kConflict);
  ASSERT_TRUE(report(lease));
  ASSERT_TRUE(publish(lease));
  EXPECT_TRUE(publish(lease));  // a repeat
  EXPECT_EQ(publish(stranger).error().code, Code::kConflict);
  // It is in nothing that is shown.
  EXPECT_EQ(encode_record(job()).find(lease.token), std::string::npos);
  const auto events = jobs_->events({.job = lease.job}).value();
  for (const JobEvent& event : events) {
    EXPECT_EQ(encode_record(event).find(lease.token), std::string::npos);
  }
}

TEST_F(JobBookTest, TakesTheLeaseOfAnEarlierReleaseWithoutAToken) {
  create();
  Lease lease = claim();
  lease.token.clear();
  Batch batch;
  batch.put_record(Family::kLeases, number_key(1), lease);
  ASSERT_TRUE(store_->commit(std::move(batch)));
  reopen();
  EXPECT_TRUE(report(lease));
}

TEST_F(JobBookTest, ListsAndRunsWhatItCanRead) {
  for (int i = 0; i < 5; ++i) create();
  const Lease running = claim();  // job-1
  damage(Family::kLeases, number_key(1));
  damage(Family::kJobs, number_key(2));
  Job later = job(JobId("job-3"));
  later.state = static_cast<JobState>(9);
  later.document.clear();
  Batch batch;
  batch.put_record(Family::kJobs, number_key(3), later);
  batch.erase(Family::kDocuments, number_key(4));
  ASSERT_TRUE(store_->commit(std::move(batch)));
  reopen();

  EXPECT_EQ(jobs_->list({})->size(), 4U);
  EXPECT_EQ(jobs_->get(JobId("job-2")).error().code, Code::kDataLoss);
  EXPECT_THAT(jobs_->get(JobId("job-2")).error().message, HasSubstr(number_key(2)));
  EXPECT_EQ(job(JobId("job-3")).state, later.state);
  EXPECT_EQ(jobs_->cancel(JobId("job-3"), now()).error().code, Code::kConflict);
  EXPECT_EQ(claim().job, JobId("job-5"));
  EXPECT_EQ(jobs_->claim({.worker = kWorker}, now()).error().code, Code::kNotFound);
  EXPECT_EQ(create().id, JobId("job-6"));
  EXPECT_THAT(unreadable(), ElementsAre("documents " + number_key(4), "jobs " + number_key(2), "jobs " + number_key(3),
                                        "leases " + number_key(1)));
  // Nobody can show the damaged lease: the job is taken back, and waits for somebody to mend or cancel it.
  EXPECT_EQ(report(running).error().code, Code::kConflict);
  clock_ += 1000ms;
  ASSERT_TRUE(jobs_->expire(now()));
  EXPECT_EQ(job(JobId("job-1")).state, JobState::kRetrying);
  EXPECT_TRUE(jobs_->cancel(JobId("job-1"), now()));
}

TEST_F(JobBookTest, TakesAJobBackWhoseLeaseIsMissing) {
  create();
  const Lease old = claim();
  Batch batch;
  batch.erase(Family::kLeases, number_key(1));
  ASSERT_TRUE(store_->commit(std::move(batch)));
  reopen();
  EXPECT_EQ(report(old).error().code, Code::kConflict);
  clock_ += 1000ms;
  ASSERT_TRUE(jobs_->expire(now()));
  const Lease next = claim();
  EXPECT_GT(next.epoch, old.epoch);
  EXPECT_TRUE(report(next));
}

// The answer to a claim may be lost: the job must not be leased to somebody who does not know of it.
TEST_F(JobBookTest, AClaimThatComesAgainGetsTheSameJob) {
  create();
  create();
  const msg::ClaimJob first{.worker = kWorker, .number = 1};
  const auto run = jobs_->claim(first, now());
  ASSERT_TRUE(run) << run.error().message;
  const auto again = jobs_->claim(first, now());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->lease, run->lease);
  EXPECT_EQ(again->job.document, run->job.document);
  EXPECT_EQ(job().attempt, 1U);
  EXPECT_TRUE(report(again->lease));
  reopen();
  const auto after_restart = jobs_->claim(first, now());
  ASSERT_TRUE(after_restart) << after_restart.error().message;
  EXPECT_EQ(after_restart->lease, run->lease);
  // The job has ended since: a late repeat gets no other one.
  ASSERT_TRUE(publish(run->lease));
  EXPECT_EQ(jobs_->claim(first, now()).error().code, Code::kNotFound);
  EXPECT_EQ(job(JobId("job-2")).state, JobState::kQueued);
  const auto next = jobs_->claim({.worker = kWorker, .number = 2}, now());
  ASSERT_TRUE(next) << next.error().message;
  EXPECT_EQ(next->job.id, JobId("job-2"));
  EXPECT_EQ(jobs_->claim(first, now()).error().code, Code::kNotFound) << "an earlier claim that comes late";
}

// Nobody listens for the answer to a claim that was answered before.
TEST_F(JobBookTest, AClaimThatFoundNoJobFindsNoneWhenItComesAgain) {
  const msg::ClaimJob first{.worker = kWorker, .number = 1};
  EXPECT_EQ(jobs_->claim(first, now()).error().code, Code::kNotFound);
  create();
  EXPECT_EQ(jobs_->claim(first, now()).error().code, Code::kNotFound);
  EXPECT_TRUE(jobs_->claim({.worker = kWorker, .number = 2}, now()));
}

// What it held before it gave up by itself; the lease runs out and counts as a lost attempt.
TEST_F(JobBookTest, ANewClaimOfAWorkerThatHoldsALeaseGetsAnotherJob) {
  create();
  create();
  const auto run = jobs_->claim({.worker = kWorker, .number = 1}, now());
  const auto next = jobs_->claim({.worker = kWorker, .number = 2}, now());
  ASSERT_TRUE(run && next);
  EXPECT_EQ(next->job.id, JobId("job-2"));
}

TEST_F(JobBookTest, HandsOutTheOldestJobOnce) {
  create();
  create();
  EXPECT_EQ(claim().job, JobId("job-1"));
  EXPECT_EQ(claim(WorkerId("w2")).job, JobId("job-2"));
  EXPECT_EQ(jobs_->claim({.worker = kWorker}, now()).error().code, Code::kNotFound);
  EXPECT_EQ(jobs_->claim({.worker = WorkerId()}, now()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(jobs_->claim({.worker = WorkerId("w\nforged=1")}, now()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(job().state, JobState::kStarting);
  EXPECT_EQ(job().attempt, 1U);
  EXPECT_EQ(job().worker, kWorker);
}

TEST_F(JobBookTest, RunsFromTheFirstReportAndKeepsTheHistory) {
  create();
  const Lease lease = claim();
  const auto orders = report(lease);
  ASSERT_TRUE(orders);
  EXPECT_FALSE(orders->cancel);
  EXPECT_EQ(orders->lease_ms, 1000U);
  ASSERT_TRUE(report(lease, {"progress", "epoch", "warning"}));
  EXPECT_EQ(job().state, JobState::kRunning);
  EXPECT_EQ(job().progress.step, 2U);
  EXPECT_THAT(history(), ElementsAre("0", "1", "2", "progress", "epoch", "warning"));
  const auto later = jobs_->events({.job = JobId("job-1"), .after = 4}).value();
  ASSERT_EQ(later.size(), 2U);
  EXPECT_EQ(later[0].id, 5U);
  EXPECT_EQ(changes_.back().last_event, 6U);
  EXPECT_EQ(changes_.back().state, JobState::kRunning);
  EXPECT_EQ(report(lease, {"state"}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(jobs_->events({.job = JobId("job-9")}).error().code, Code::kNotFound);
}

TEST_F(JobBookTest, KeepsOnlyTheNewestProgressEvents) {
  create();
  const Lease lease = claim();
  ASSERT_TRUE(report(lease, {"progress", "progress", "epoch", "progress"}));
  reopen();
  ASSERT_TRUE(report(lease, {"progress", "progress"}));
  const auto events = jobs_->events({.job = JobId("job-1")}).value();
  EXPECT_THAT(history(), ElementsAre("0", "1", "2", "epoch", "progress", "progress", "progress"));
  EXPECT_EQ(events.back().id, 9U);
}

TEST_F(JobBookTest, CancelsAWaitingJobAtOnceAndARunningOneThroughItsTrainer) {
  create();
  create();
  EXPECT_EQ(jobs_->cancel(JobId("job-2"), now())->state, JobState::kCancelled);
  EXPECT_EQ(jobs_->cancel(JobId("job-2"), now())->state, JobState::kCancelled);
  const Lease lease = claim();
  ASSERT_TRUE(report(lease));
  EXPECT_EQ(jobs_->cancel(JobId("job-1"), now())->state, JobState::kRunning);
  EXPECT_TRUE(report(lease)->cancel);
  reopen();
  EXPECT_TRUE(report(lease)->cancel);
  ASSERT_TRUE(end(lease, msg::Outcome::kCancelled));
  EXPECT_EQ(job().state, JobState::kCancelled);
  EXPECT_GT(job().finished_ms, 0);
  EXPECT_EQ(jobs_->claim({.worker = kWorker}, now()).error().code, Code::kNotFound);
}

TEST_F(JobBookTest, DoesNotCancelWhatHasSucceeded) {
  create();
  ASSERT_TRUE(publish(claim()));
  const auto refused = jobs_->cancel(JobId("job-1"), now());
  EXPECT_EQ(refused.error().code, Code::kConflict);
  EXPECT_THAT(refused.error().message, HasSubstr("it has succeeded"));
}

TEST_F(JobBookTest, GivesALostJobToTheNextTrainerAndFencesTheOldOne) {
  create();
  const Lease old = claim();
  ASSERT_TRUE(report(old));
  clock_ = 999ms;
  ASSERT_TRUE(jobs_->expire(now()));
  EXPECT_EQ(job().state, JobState::kRunning);
  clock_ = 1000ms;
  ASSERT_TRUE(jobs_->expire(now()));
  EXPECT_EQ(job().state, JobState::kRetrying);
  EXPECT_EQ(report(old).error().code, Code::kConflict);

  const Lease fresh = claim(WorkerId("w2"));
  EXPECT_EQ(fresh.epoch, old.epoch + 1);
  EXPECT_EQ(report(old).error().code, Code::kConflict);
  EXPECT_EQ(checkpoint(old, "u1").error().code, Code::kConflict);
  EXPECT_EQ(publish(old).error().code, Code::kConflict);
  EXPECT_EQ(end(old, msg::Outcome::kFailed).error().code, Code::kConflict);
  EXPECT_TRUE(report(fresh));
  EXPECT_EQ(job().attempt, 2U);
}

TEST_F(JobBookTest, FailsAJobThatLosesThreeTrainersWhichHadTimeForACheckpoint) {
  create();
  for (int i = 0; i < 3; ++i) lose_after(70s);
  EXPECT_EQ(job().state, JobState::kFailed);
  EXPECT_EQ(job().reason, "WORKER_LOST");
  EXPECT_THAT(job().message, HasSubstr("3 attempts in a row ended without a new checkpoint"));
}

TEST_F(JobBookTest, GoesOnAfterTrainersThatWereKilledBeforeTheirFirstCheckpoint) {
  create();
  for (int i = 0; i < 9; ++i) {
    lose_after(20s);
    if (i == 4) reopen();
  }
  EXPECT_EQ(job().state, JobState::kRetrying);
  const Lease lease = claim();
  ASSERT_TRUE(checkpoint(lease, "u"));
  clock_ += 1000ms;
  ASSERT_TRUE(jobs_->expire(now()));
  for (int i = 0; i < 8; ++i) lose_after(20s);
  EXPECT_EQ(job().state, JobState::kRetrying);
}

TEST_F(JobBookTest, EndsAJobWhoseTrainersAreLostAtOnceEachTime) {
  create();
  for (int i = 0; i < 10; ++i) lose_after(0s);
  EXPECT_EQ(job().state, JobState::kFailed);
  EXPECT_EQ(job().reason, "WORKER_LOST");
  EXPECT_THAT(job().message, HasSubstr("10 attempts in a row ended before there was time for a checkpoint"));
  EXPECT_THAT(job().message, HasSubstr("every 30 s"));
}

TEST_F(JobBookTest, MeasuresAnAttemptByTheCheckpointsThatItsJobAsksFor) {
  create("", R"({"checkpoint_seconds": 600})");
  for (int i = 0; i < 3; ++i) lose_after(70s);
  EXPECT_EQ(job().state, JobState::kRetrying);
  ASSERT_TRUE(jobs_->cancel(JobId("job-1"), now()));
  create("", R"({"checkpoint_seconds": 0.5})");
  for (int i = 0; i < 3; ++i) lose_after(11s);
  EXPECT_EQ(job(JobId("job-2")).state, JobState::kFailed);
}

TEST_F(JobBookTest, ANewCheckpointStartsTheCountOfLostTrainersAnew) {
  create();
  for (int i = 0; i < 5; ++i) {
    if (i == 1 || i == 3) {
      const Lease lease = claim();
      ASSERT_TRUE(checkpoint(lease, "u" + std::to_string(i)));
      ASSERT_TRUE(end(lease, msg::Outcome::kReleased));
    }
    lose_after(70s);
  }
  EXPECT_EQ(job().state, JobState::kRetrying);
}

TEST_F(JobBookTest, TakesCheckpointsNoCloserThanATenthOfASecondAndRetiresTheOldOnes) {
  create();
  const Lease lease = claim();
  ASSERT_TRUE(checkpoint(lease, "u1"));
  clock_ += 99ms;
  const auto soon = checkpoint(lease, "u2");
  EXPECT_EQ(soon.error().code, Code::kOverloaded);
  EXPECT_GT(soon.error().retry_after, 0ms);
  clock_ += 1ms;
  ASSERT_TRUE(checkpoint(lease, "u2"));
  EXPECT_THAT(jobs_->take_retired(), ElementsAre(sha256("u1")));
  EXPECT_THAT(jobs_->take_retired(), testing::IsEmpty());
  for (int i = 3; i < 8; ++i) {
    clock_ += 100ms;
    ASSERT_TRUE(checkpoint(lease, "u" + std::to_string(i)));
    if (i == 5) reopen();
  }
  EXPECT_THAT(history(), ElementsAre("0", "1", "2", "checkpoint", "checkpoint", "checkpoint"));
  (void)jobs_->take_retired();
  ASSERT_TRUE(publish(lease));
  EXPECT_THAT(jobs_->take_retired(), ElementsAre(sha256("u7")));
}

TEST_F(JobBookTest, CancelsALostJobThatWasToBeCancelled) {
  create();
  claim();
  ASSERT_TRUE(jobs_->cancel(JobId("job-1"), now()));
  clock_ += 1000ms;
  ASSERT_TRUE(jobs_->expire(now()));
  EXPECT_EQ(job().state, JobState::kCancelled);
}

TEST_F(JobBookTest, LeasesHaveTheirFullTimeAgainAfterARestart) {
  create();
  const Lease lease = claim();
  clock_ = 900ms;
  reopen();
  clock_ = 1899ms;
  ASSERT_TRUE(jobs_->expire(now()));
  EXPECT_TRUE(report(lease));
}

TEST_F(JobBookTest, KeepsTheNewestCheckpointUntilTheJobHasEnded) {
  create();
  const Lease lease = claim();
  EXPECT_TRUE(jobs_->checkpoint(lease.job)->empty());
  ASSERT_TRUE(checkpoint(lease, "u1"));
  ASSERT_TRUE(checkpoint(lease, "u1"));  // a repeat
  clock_ += 100ms;
  ASSERT_TRUE(checkpoint(lease, "u2"));
  reopen();
  const auto kept = jobs_->checkpoint(lease.job).value();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(kept[0].number, 2U);
  EXPECT_EQ(kept[0].files, std::vector{stored_file("c", "u2")});
  EXPECT_EQ(catalog_->collect_chunks().value(), (DigestSet{sha256("content"), sha256("u2")}));
  ASSERT_TRUE(publish(lease));
  EXPECT_TRUE(jobs_->checkpoint(lease.job)->empty());
  EXPECT_EQ(jobs_->checkpoint(JobId("job-9")).error().code, Code::kNotFound);
}

TEST_F(JobBookTest, ReplacesACheckpointThatItCannotRead) {
  create();
  const Lease lease = claim();
  ASSERT_TRUE(checkpoint(lease, "u1"));
  damage(Family::kCheckpoints, number_key(1));
  reopen();
  EXPECT_EQ(jobs_->checkpoint(lease.job).error().code, Code::kDataLoss);
  EXPECT_THAT(unreadable(), ElementsAre("checkpoints " + number_key(1)));
  const auto kept = checkpoint(lease, "u2");
  ASSERT_TRUE(kept) << kept.error().message;
  EXPECT_EQ(jobs_->checkpoint(lease.job)->at(0).files, std::vector{stored_file("c", "u2")});
  EXPECT_THAT(unreadable(), testing::IsEmpty());
  clock_ += 100ms;
  ASSERT_TRUE(checkpoint(lease, "u3"));
  EXPECT_THAT(jobs_->take_retired(), ElementsAre(sha256("u2")));
  ASSERT_TRUE(publish(lease));
  EXPECT_TRUE(jobs_->checkpoint(lease.job)->empty());
}

TEST_F(JobBookTest, PublishesTheNextVersionWithItsLineageInOneCommit) {
  create();
  const Lease lease = claim();
  ASSERT_TRUE(report(lease));
  const auto revision = store_->revision();
  const auto version = publish(lease);
  ASSERT_TRUE(version) << version.error().message;
  EXPECT_EQ(store_->revision(), revision + 1);
  EXPECT_EQ(version->number, 1U);
  EXPECT_FALSE(version->uploaded);
  EXPECT_EQ(version->metrics, (std::vector<Metric>{{"accuracy", 0.9}}));
  EXPECT_EQ(version->lineage, (Lineage{.job = lease.job,
                                       .dataset = "d",
                                       .dataset_version = 1,
                                       .dataset_digest = sha256("content"),
                                       .spec_digest = sha256("{}"),
                                       .seed = 7}));
  EXPECT_EQ(job().state, JobState::kSucceeded);
  EXPECT_EQ(job().version, 1U);
  ASSERT_GE(changes_.size(), 2U);
  EXPECT_EQ(changes_.back().revision, changes_[changes_.size() - 2].revision);
}

TEST_F(JobBookTest, RecognisesARepeatedPublishAndEnd) {
  create();
  create();
  const Lease published = claim();
  const Lease ended = claim();
  const auto first = publish(published).value();
  ASSERT_TRUE(end(ended, msg::Outcome::kFailed));
  reopen();
  const auto revision = store_->revision();
  // The upload is gone after the restart, and need not be there.
  const auto again =
      jobs_->publish({.lease = published, .upload = UploadId("u"), .signature = some_signature(), .metrics = {}},
                     fail(Code::kNotFound, "no upload"), now());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(*again, first);
  EXPECT_TRUE(end(ended, msg::Outcome::kFailed));
  EXPECT_EQ(store_->revision(), revision);
  EXPECT_EQ(end(published, msg::Outcome::kFailed).error().code, Code::kConflict);
  EXPECT_EQ(publish(ended).error().code, Code::kConflict);
}

TEST_F(JobBookTest, RefusesAPublishWithoutFilesOrSignature) {
  create();
  const Lease lease = claim();
  EXPECT_EQ(jobs_
                ->publish({.lease = lease, .upload = {}, .signature = some_signature(), .metrics = {}},
                          fail(Code::kNotFound, "no upload"), now())
                .error()
                .code,
            Code::kNotFound);
  EXPECT_EQ(
      jobs_->publish({.lease = lease, .upload = {}, .signature = {}, .metrics = {}}, std::vector<StoredFile>{}, now())
          .error()
          .code,
      Code::kInvalidArgument);
  EXPECT_EQ(job().state, JobState::kStarting);
}

TEST_F(JobBookTest, EndsAttemptsAsTheTrainerSays) {
  create();
  Lease lease = claim();
  ASSERT_TRUE(end(lease, msg::Outcome::kReleased));  // refused before it began
  EXPECT_EQ(job().state, JobState::kQueued);
  EXPECT_EQ(job().attempt, 0U);
  lease = claim();
  ASSERT_TRUE(report(lease));
  ASSERT_TRUE(end(lease, msg::Outcome::kReleased));
  EXPECT_EQ(job().state, JobState::kRetrying);
  lease = claim();
  ASSERT_TRUE(end(lease, msg::Outcome::kFailed, true));
  EXPECT_EQ(job().state, JobState::kRetrying);
  lease = claim();
  ASSERT_TRUE(end(lease, msg::Outcome::kFailed));
  EXPECT_EQ(job().state, JobState::kFailed);
  EXPECT_EQ(job().reason, "NAN_LOSS");
  EXPECT_EQ(job().message, "loss is nan");
}

// Each record as large as what may come with it: written, read after a restart and listed.
TEST_F(JobBookTest, KeepsRecordsAtTheirLimits) {
  msg::CreateJob question;
  question.job.document = std::string(limits_.max_document_bytes, ' ');
  question.job.model = std::string(128, 'm');
  question.job.dataset = "d";
  question.job.request_id = std::string(200, 'r');
  question.job.actor = std::string(256, 'a');
  question.idempotency_key = std::string(255, 'k');
  ASSERT_TRUE(jobs_->create(question, now()));
  const Lease lease = claim(WorkerId(std::string(128, 'w')));
  JobEvent event;
  event.kind = "epoch";
  event.message = std::string(8'000, 'e');
  for (int i = 0; i < 1'000; ++i) event.progress.metrics.push_back({.name = std::string(100, 'n'), .value = 1});
  ASSERT_TRUE(jobs_->report({.lease = lease, .events = std::vector(20, event), .number = 1}, now()));
  StoredFile file = stored_file("checkpoint", "large");
  file.chunks.assign((64ULL << 30) / kChunkBytes, sha256("chunk"));
  ASSERT_TRUE(
      jobs_->commit_checkpoint({.lease = lease, .upload = UploadId(std::string(48, 'f'))}, std::vector{file}, now()));
  reopen();
  EXPECT_EQ(job().document, question.job.document);
  EXPECT_EQ(job().progress, event.progress);
  EXPECT_EQ(jobs_->list({})->size(), 1U);
  EXPECT_EQ(jobs_->checkpoint(lease.job)->at(0).files, std::vector{file});
  std::size_t events = 0;
  for (std::uint64_t after = 0;;) {
    const auto page = jobs_->events({.job = lease.job, .after = after}).value();
    if (page.empty()) break;
    EXPECT_TRUE(encode(msg::Envelope{.request_id = {}, .body = msg::JobEvents{.items = page}}, kMaxEnvelopeBytes));
    events += page.size();
    after = page.back().id;
  }
  EXPECT_EQ(events, 3U + 20U + 1U);
  EXPECT_TRUE(report(lease));
  EXPECT_THAT(unreadable(), testing::IsEmpty());
}

TEST_F(JobBookTest, CountsJobsByState) {
  create();
  create();
  create();
  ASSERT_TRUE(jobs_->cancel(JobId("job-2"), now()));
  claim();
  reopen();
  EXPECT_THAT(jobs_->jobs_by_state(), ElementsAre(1, 1, 0, 0, 0, 0, 1));
}

}  // namespace
}  // namespace slipway::registry

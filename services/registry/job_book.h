// Jobs from submission to their end: who runs them, what they report, what becomes of them. No thread or clock in here.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/catalog.h"
#include "services/registry/lease_table.h"
#include "services/registry/quarantine_book.h"
#include "services/registry/repeat_marks.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

struct Now {
  LeaseTable::TimePoint steady;
  std::int64_t unix_ms = 0;
};

struct JobLimits {
  std::chrono::milliseconds lease{10'000};
  std::uint64_t max_lost_attempts = 3;    // in a row, without a new checkpoint though there was time for one
  std::uint64_t max_short_attempts = 10;  // in a row, lost before there was time for a checkpoint
  std::chrono::milliseconds checkpoint_every{30'000};      // of jobs that do not say
  std::chrono::milliseconds min_between_checkpoints{100};  // under one lease
  std::size_t max_progress_events = 20'000;                // kept per job
  std::size_t max_checkpoint_events = 1'000;               // kept per job
  std::size_t max_document_bytes = 2 << 20;
};

inline constexpr std::size_t kJobStates = 7;

// Every write is one commit; what is in memory follows only after it. A repeat of a write whose answer was lost is
// recognised and answered again. Besides the codes named, everything may answer what RocksStore does, and kNotFound for
// an unknown job. Writes under a lease answer kConflict when it is not the one in force. A job of a later release (in a
// state that this one does not know) is shown, and neither run nor changed: kConflict.
// Life: must not outlive store and catalog. Threads: owned by the writer, but for get, list, events and checkpoint,
// which any thread may ask.
class JobBook {
 public:
  JobBook(RocksStore& store, Catalog& catalog, JobLimits limits);

  // Reads what is there, but for what cannot be read; leases get their full duration again, and a job without its
  // lease counts as lost once that has passed. Call once, first.
  [[nodiscard]] Result<void> load(Now now);

  // The idempotency key is the actor's own, and holds for a day. Errors: kInvalidArgument (model name, texts),
  // kTooLarge (document), kNotFound (data set; path "$.dataset"), kConflict (the key was used for another document),
  // kUnsupported (a data set of a later release).
  [[nodiscard]] Result<Job> create(const msg::CreateJob& question, Now now);
  [[nodiscard]] Result<Job> get(const JobId& id) const;
  [[nodiscard]] Result<std::vector<Job>> list(const msg::ListJobs& question) const;  // without documents, newest first
  // Errors: kConflict (it has succeeded or failed).
  [[nodiscard]] Result<Job> cancel(const JobId& id, Now now);
  [[nodiscard]] Result<std::vector<JobEvent>> events(const msg::ListJobEvents& question) const;

  // The oldest job that waits and can be read, with a lease whose token nobody else learns. A claim whose answer was
  // lost comes again under its number and gets the same job; without a number every claim is a new one.
  // Errors: kNotFound (none waits; or none did when this number came before), kInvalidArgument (no worker named).
  [[nodiscard]] Result<msg::RunJob> claim(const msg::ClaimJob& question, Now now);
  // A report whose answer was lost comes again: it is known by its number. One without a number may come with more
  // behind it: events at its start that the last one under this lease began with are not told twice.
  // Errors: kInvalidArgument (an event of a kind that is not the trainer's).
  [[nodiscard]] Result<msg::JobOrders> report(const msg::ReportJob& question, Now now);
  // `files` are the upload's; its error counts only when this is no repeat. Errors: kOverloaded (sooner after the last
  // one than min_between_checkpoints).
  [[nodiscard]] Result<void> commit_checkpoint(const msg::CommitCheckpoint& question,
                                               Result<std::vector<StoredFile>> files, Now now);
  [[nodiscard]] Result<std::vector<Checkpoint>> checkpoint(const JobId& id) const;  // the newest, or none
  // Errors: kInvalidArgument (signature), kTooLarge (signature, metrics).
  [[nodiscard]] Result<Version> publish(const msg::Publish& question, Result<std::vector<StoredFile>> files, Now now);
  // Errors: kInvalidArgument (an outcome of a later release).
  [[nodiscard]] Result<void> end_attempt(const msg::EndAttempt& question, Now now);

  // Takes back the jobs whose lease has run out.
  [[nodiscard]] Result<void> expire(Now now);
  // The registry itself stood still.
  void extend_leases(std::chrono::steady_clock::duration pause) { leases_.extend_all(pause); }

  // Chunks of checkpoints that have given way or whose job has ended, since this was last asked.
  [[nodiscard]] std::vector<Digest> take_retired() { return std::exchange(retired_, {}); }

  // Forgets the marks of repeats that are over a day old, some at a time. True: there may be more.
  [[nodiscard]] Result<bool> purge_marks(Now now);

  [[nodiscard]] const std::array<std::int64_t, kJobStates>& jobs_by_state() const { return by_state_; }

 private:
  // What is remembered of an unfinished job.
  struct Live {
    std::uint64_t last_event = 0;
    std::deque<std::uint64_t> progress_events;  // ids of those kept, oldest first
    std::deque<std::uint64_t> checkpoint_events;
    std::uint64_t reported_epoch = 0;
    std::uint64_t reported_number = 0;  // of the last report with events; 0: it had none
    std::vector<JobEvent> reported;     // of the last report with events and no number, as it came
    // From here on the attempt has made no checkpoint: its claim, its last one, or the start of the registry.
    LeaseTable::TimePoint unsaved_since;
    std::optional<LeaseTable::TimePoint> last_checkpoint;  // under the lease in force
  };
  // A change of one job on its way to a commit.
  struct Change {
    std::uint64_t number = 0;
    JobState before = JobState::kQueued;
    bool is_new = false;
    Job job;
    std::vector<JobEvent> events;  // without ids and times
    std::vector<Digest> retired;   // chunks that nothing of this job names any more
    Batch batch;

    void enter(JobState state, std::string message);
    void add(std::string kind, std::string message);
  };

  // A worker's last numbered claim.
  struct LastClaim {
    std::uint64_t number = 0;
    JobId job;  // that it got; empty: none
    LeaseTable::TimePoint at;
  };

  // A waiting job with all that a trainer needs.
  struct Order {
    Change change;
    std::string document;
    std::uint64_t last_epoch = 0;
  };

  [[nodiscard]] Result<Job> job_of(std::uint64_t number) const;
  [[nodiscard]] Result<Change> change_of(std::uint64_t number) const;
  [[nodiscard]] Result<Order> order_of(std::uint64_t number) const;
  [[nodiscard]] Result<msg::RunJob> claimed_before(const WorkerId& worker, const JobId& job) const;
  [[nodiscard]] Result<msg::RunJob> claim_next(const WorkerId& worker, Now now);
  void remember_claim(const msg::ClaimJob& question, JobId job, Now now);
  [[nodiscard]] Result<Change> change_under(const Lease& lease) const;
  [[nodiscard]] Result<void> save(Change change, Now now);
  [[nodiscard]] Result<bool> ended_with(const Lease& lease, std::string_view what) const;
  [[nodiscard]] Result<std::uint64_t> count(Change& change, std::string key) const;
  void finish(Change& change, JobState state, std::string message, Now now) const;
  void end_lease(Change& change, const Lease& lease, std::string_view what) const;
  [[nodiscard]] Result<void> retry_or_fail(Change& change, std::string reason, std::string message, Now now) const;
  [[nodiscard]] Result<void> take_back(Change& change, const Lease& lease, Now now) const;

  RocksStore& store_;
  Catalog& catalog_;
  const QuarantineBook quarantines_;
  const RepeatMarks marks_;
  const JobLimits limits_;
  LeaseTable leases_;
  std::map<std::uint64_t, Live> live_;  // unfinished jobs
  std::set<std::uint64_t> waiting_;     // queued and retrying ones
  std::map<WorkerId, LastClaim> claims_;
  std::array<std::int64_t, kJobStates> by_state_{};
  std::vector<Digest> retired_;
  std::uint64_t last_job_ = 0;
};

}  // namespace slipway::registry

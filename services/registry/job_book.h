// Jobs from submission to their end: who runs them, what they report, what becomes of them. No thread or clock in here.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/catalog.h"
#include "services/registry/lease_table.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

struct Now {
  LeaseTable::TimePoint steady;
  std::int64_t unix_ms = 0;
};

struct JobLimits {
  std::chrono::milliseconds lease{10'000};
  std::uint64_t max_lost_attempts = 3;       // in a row, without a new checkpoint
  std::size_t max_progress_events = 20'000;  // kept per job
  std::size_t max_document_bytes = 2 << 20;
};

inline constexpr std::size_t kJobStates = 7;

// Every write is one commit; what is in memory follows only after it. A repeat of a write whose answer was lost is
// recognised and answered again. Besides the codes named, everything may answer what RocksStore does, and kNotFound for
// an unknown job. Writes under a lease answer kConflict when it is not the one in force.
// Life: must not outlive store and catalog. Threads: not thread-safe, owned by the writer.
class JobBook {
 public:
  JobBook(RocksStore& store, Catalog& catalog, JobLimits limits);

  // Reads what is there; leases get their full duration again. Call once, first.
  [[nodiscard]] Result<void> load(Now now);

  // Errors: kInvalidArgument (model name, texts), kTooLarge (document), kNotFound (data set; path "$.dataset").
  [[nodiscard]] Result<Job> create(const msg::CreateJob& question, Now now);
  [[nodiscard]] Result<Job> get(const JobId& id) const;
  [[nodiscard]] Result<std::vector<Job>> list(const msg::ListJobs& question) const;  // without documents, newest first
  // Errors: kConflict (it has succeeded or failed).
  [[nodiscard]] Result<Job> cancel(const JobId& id, Now now);
  [[nodiscard]] Result<std::vector<JobEvent>> events(const msg::ListJobEvents& question) const;

  // The oldest job that waits. Errors: kNotFound (none), kInvalidArgument (no worker named).
  [[nodiscard]] Result<msg::RunJob> claim(const WorkerId& worker, Now now);
  // A report whose answer was lost comes again, perhaps with more behind it: events at its start that the last one
  // under this lease began with are not told twice. Errors: kInvalidArgument (an event of a kind that is not the
  // trainer's).
  [[nodiscard]] Result<msg::JobOrders> report(const msg::ReportJob& question, Now now);
  // `files` are the upload's; its error counts only when this is no repeat.
  [[nodiscard]] Result<void> commit_checkpoint(const msg::CommitCheckpoint& question,
                                               Result<std::vector<StoredFile>> files, Now now);
  [[nodiscard]] Result<std::vector<Checkpoint>> checkpoint(const JobId& id) const;  // the newest, or none
  // Errors: kInvalidArgument (signature).
  [[nodiscard]] Result<Version> publish(const msg::Publish& question, Result<std::vector<StoredFile>> files, Now now);
  [[nodiscard]] Result<void> end_attempt(const msg::EndAttempt& question, Now now);

  // Takes back the jobs whose lease has run out.
  [[nodiscard]] Result<void> expire(Now now);
  // The registry itself stood still.
  void extend_leases(std::chrono::steady_clock::duration pause) { leases_.extend_all(pause); }

  [[nodiscard]] const std::array<std::int64_t, kJobStates>& jobs_by_state() const { return by_state_; }

 private:
  // What is remembered of an unfinished job.
  struct Live {
    std::uint64_t last_event = 0;
    std::deque<std::uint64_t> progress_events;  // ids of those kept, oldest first
    std::uint64_t reported_epoch = 0;
    std::vector<JobEvent> reported;  // of the last report with events, as it came
  };
  // A change of one job on its way to a commit.
  struct Change {
    std::uint64_t number = 0;
    JobState before = JobState::kQueued;
    bool is_new = false;
    Job job;
    std::vector<JobEvent> events;  // without ids and times
    Batch batch;

    void enter(JobState state, std::string message);
    void add(std::string kind, std::string message);
  };

  [[nodiscard]] Result<Change> change_of(std::uint64_t number) const;
  [[nodiscard]] Result<Change> change_under(const Lease& lease) const;
  [[nodiscard]] Result<void> save(Change change, Now now);
  [[nodiscard]] Result<bool> ended_with(const Lease& lease, std::string_view what) const;
  [[nodiscard]] Result<std::uint64_t> count_lost(Change& change) const;
  void finish(Change& change, JobState state, std::string message, Now now) const;
  void end_lease(Change& change, const Lease& lease, std::string_view what) const;
  [[nodiscard]] Result<void> requeue_or_fail(Change& change, std::string reason, std::string message, Now now) const;

  RocksStore& store_;
  Catalog& catalog_;
  const JobLimits limits_;
  LeaseTable leases_;
  std::map<std::uint64_t, Live> live_;  // unfinished jobs
  std::set<std::uint64_t> waiting_;     // queued and retrying ones
  std::array<std::int64_t, kJobStates> by_state_{};
  std::uint64_t last_job_ = 0;
};

}  // namespace slipway::registry

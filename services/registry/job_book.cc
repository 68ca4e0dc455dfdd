#include "services/registry/job_book.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <limits>
#include <span>

#include "lib/base/sha256.h"
#include "lib/wire/page.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::string_view kPublished = "published";
constexpr std::string_view kEnded = "ended";

bool is_finished(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed || state == JobState::kCancelled;
}
bool is_waiting(JobState state) { return state == JobState::kQueued || state == JobState::kRetrying; }

std::string_view state_text(JobState state) {
  constexpr std::array kTexts{"queued",    "starting", "running",  "waiting for another attempt",
                              "succeeded", "failed",   "cancelled"};
  return kTexts[static_cast<std::size_t>(state)];
}

// Marks of a job in the meta family.
std::string ended_key(std::uint64_t job) { return "ended/" + number_key(job); }
std::string lost_key(std::uint64_t job) { return "lost/" + number_key(job); }
std::string checkpointed_key(std::uint64_t job) { return "checkpointed/" + number_key(job); }
std::string idempotency_key(const std::string& key) { return "idempotency/" + key; }

template <class Record>
Result<Record> decode(std::string_view value) {
  return decode_record<Record>(std::as_bytes(std::span(value)));
}

}  // namespace

JobBook::JobBook(RocksStore& store, Catalog& catalog, JobLimits limits)
    : store_(store), catalog_(catalog), limits_(limits), leases_(limits.lease) {}

Result<void> JobBook::load(Now now) {
  std::vector<std::pair<std::uint64_t, JobState>> unfinished;
  auto scanned = store_.scan(Family::kJobs, {}, {}, [&](std::string_view key, auto value) -> Result<bool> {
    auto job = decode<Job>(value);
    if (!job) return std::unexpected(std::move(job).error());
    last_job_ = number_of(key);
    ++by_state_[static_cast<std::size_t>(job->state)];
    if (!is_finished(job->state)) unfinished.emplace_back(last_job_, job->state);
    return true;
  });
  if (!scanned) return scanned;

  for (const auto& [number, state] : unfinished) {
    Live& live = live_[number];
    const std::string name = number_key(number);
    scanned = store_.scan(Family::kJobEvents, first_key(name), end_key(name), [&](auto, auto value) -> Result<bool> {
      auto event = decode<JobEvent>(value);
      if (!event) return std::unexpected(std::move(event).error());
      live.last_event = event->id;
      if (event->kind == "progress") live.progress_events.push_back(event->id);
      return true;
    });
    if (!scanned) return scanned;
    if (is_waiting(state)) {
      waiting_.insert(number);
      continue;
    }
    auto lease = store_.get_record<Lease>(Family::kLeases, name);
    if (!lease) return std::unexpected(std::move(lease).error());
    if (!*lease) return fail(Code::kDataLoss, std::format("the lease of {} is missing", job_id(number).text()));
    leases_.grant((*lease)->job, (*lease)->epoch, (*lease)->holder, now.steady);
  }
  return {};
}

// --- changes ---

void JobBook::Change::enter(JobState state, std::string message) {
  job.state = state;
  add("state", std::move(message));
}

void JobBook::Change::add(std::string kind, std::string message) {
  JobEvent event;
  event.kind = std::move(kind);
  event.state = job.state;
  event.message = std::move(message);
  events.push_back(std::move(event));
}

Result<JobBook::Change> JobBook::change_of(std::uint64_t number) const {
  auto job = store_.get_record<Job>(Family::kJobs, number_key(number));
  if (!job) return std::unexpected(std::move(job).error());
  if (!*job) return fail(Code::kNotFound, std::format("there is no job '{}'", job_id(number).text()));
  Change change;
  change.number = number;
  change.before = (*job)->state;
  change.job = std::move(**job);
  return change;
}

Result<JobBook::Change> JobBook::change_under(const Lease& lease) const {
  const auto number = job_number(lease.job);
  if (!number) return std::unexpected(number.error());
  auto change = change_of(*number);
  if (!change) return change;
  if (auto valid = leases_.check(lease); !valid) return std::unexpected(std::move(valid).error());
  if (change->job.state == JobState::kStarting) {
    change->enter(JobState::kRunning, std::format("attempt {} runs", change->job.attempt));
  }
  return change;
}

Result<void> JobBook::save(Change change, Now now) {
  const auto found = live_.find(change.number);
  Live live = found == live_.end() ? Live{} : found->second;
  const std::string name = number_key(change.number);
  for (JobEvent& event : change.events) {
    event.id = ++live.last_event;
    event.at_ms = now.unix_ms;
    if (event.kind == "progress") live.progress_events.push_back(event.id);
    change.batch.put_record(Family::kJobEvents, numbered_key(name, event.id), event);
  }
  while (live.progress_events.size() > limits_.max_progress_events) {
    change.batch.erase(Family::kJobEvents, numbered_key(name, live.progress_events.front()));
    live.progress_events.pop_front();
  }
  change.batch.put_record(Family::kJobs, name, change.job);
  change.batch.tell({.subject = msg::Subject::kJob,
                     .key = change.job.id.text(),
                     .last_event = live.last_event,
                     .state = change.job.state});
  if (auto done = store_.commit(std::move(change.batch)); !done) return done;

  const JobState state = change.job.state;
  if (!change.is_new) --by_state_[static_cast<std::size_t>(change.before)];
  ++by_state_[static_cast<std::size_t>(state)];
  if (is_waiting(state)) {
    waiting_.insert(change.number);
  } else {
    waiting_.erase(change.number);
  }
  if (is_finished(state)) {
    live_.erase(change.number);
  } else {
    live_.insert_or_assign(change.number, std::move(live));
  }
  return {};
}

void JobBook::finish(Change& change, JobState state, std::string message, Now now) const {
  change.job.finished_ms = now.unix_ms;
  change.job.message = message;
  change.enter(state, std::move(message));
  change.batch.erase(Family::kCheckpoints, number_key(change.number));
  change.batch.erase(Family::kMeta, lost_key(change.number));
  change.batch.erase(Family::kMeta, checkpointed_key(change.number));
}

// Marks what ended the attempt, so that a repeat of it is recognised.
void JobBook::end_lease(Change& change, const Lease& lease, std::string_view what) const {
  change.batch.put(Family::kMeta, ended_key(change.number), std::format("{} {}", lease.epoch, what));
}

Result<bool> JobBook::ended_with(const Lease& lease, std::string_view what) const {
  const auto number = job_number(lease.job);
  if (!number) return std::unexpected(number.error());
  auto mark = store_.get(Family::kMeta, ended_key(*number));
  if (!mark) return std::unexpected(std::move(mark).error());
  return *mark && **mark == std::format("{} {}", lease.epoch, what);
}

Result<std::uint64_t> JobBook::count_lost(Change& change) const {
  auto mark = store_.get(Family::kMeta, lost_key(change.number));
  if (!mark) return std::unexpected(std::move(mark).error());
  const std::uint64_t lost = (*mark ? number_of(**mark) : 0) + 1;
  change.batch.put(Family::kMeta, lost_key(change.number), number_key(lost));
  return lost;
}

Result<void> JobBook::requeue_or_fail(Change& change, std::string reason, std::string message, Now now) const {
  if (change.job.cancel_requested) {
    finish(change, JobState::kCancelled, "cancelled", now);
    return {};
  }
  const auto lost = count_lost(change);
  if (!lost) return std::unexpected(lost.error());
  if (*lost < limits_.max_lost_attempts) {
    change.enter(JobState::kRetrying, std::format("attempt {}: {}", change.job.attempt, message));
    return {};
  }
  change.job.reason = std::move(reason);
  finish(change, JobState::kFailed,
         std::format("{} attempts in a row ended without a new checkpoint, the last: {}", *lost, message), now);
  return {};
}

// --- asked by gateways ---

Result<Job> JobBook::create(const msg::CreateJob& question, Now now) {
  if (auto plain = check_text("idempotency key", question.idempotency_key, 200); !plain) {
    return std::unexpected(plain.error());
  }
  if (!question.idempotency_key.empty()) {
    auto made = store_.get(Family::kMeta, idempotency_key(question.idempotency_key));
    if (!made) return std::unexpected(std::move(made).error());
    if (*made) return get(job_id(number_of(**made)));
  }
  const Job& asked = question.job;
  if (auto named = check_name("model", asked.model); !named) {
    return fail_at("$.publish.model", named.error().code, named.error().message);
  }
  if (asked.document.empty()) return fail(Code::kInvalidArgument, "a job without a document");
  if (asked.document.size() > limits_.max_document_bytes) {
    return fail(Code::kTooLarge, std::format("a job document of {} bytes, at most {} are taken", asked.document.size(),
                                             limits_.max_document_bytes));
  }
  if (auto plain = check_text("request id", asked.request_id, 200); !plain) return std::unexpected(plain.error());
  const auto dataset = catalog_.dataset(asked.dataset, asked.dataset_version);
  if (!dataset) return fail_at("$.dataset", dataset.error().code, dataset.error().message);

  Change change;
  change.number = last_job_ + 1;
  change.is_new = true;
  Job& job = change.job;
  job.id = job_id(change.number);
  job.spec_digest = sha256(asked.document);
  job.model = asked.model;
  job.dataset = dataset->name;
  job.dataset_version = dataset->version;
  job.dataset_digest = dataset->digest;
  job.seed = asked.seed;
  job.created_ms = now.unix_ms;
  job.request_id = asked.request_id;
  change.enter(JobState::kQueued, "queued");
  change.batch.put(Family::kDocuments, number_key(change.number), asked.document);
  if (!question.idempotency_key.empty()) {
    change.batch.put(Family::kMeta, idempotency_key(question.idempotency_key), number_key(change.number));
  }
  Job created = job;
  if (auto saved = save(std::move(change), now); !saved) return std::unexpected(std::move(saved).error());
  ++last_job_;
  created.document = asked.document;
  return created;
}

Result<Job> JobBook::get(const JobId& id) const {
  const auto number = job_number(id);
  if (!number) return std::unexpected(number.error());
  auto change = change_of(*number);
  if (!change) return std::unexpected(std::move(change).error());
  auto document = store_.get(Family::kDocuments, number_key(*number));
  if (!document) return std::unexpected(std::move(document).error());
  if (!*document) return fail(Code::kDataLoss, std::format("the document of {} is missing", id.text()));
  change->job.document = std::move(**document);
  return std::move(change->job);
}

Result<std::vector<Job>> JobBook::list(const msg::ListJobs& question) const {
  std::string end;
  if (!question.before.empty()) {
    const auto number = job_number(question.before);
    if (!number) return std::unexpected(number.error());
    end = number_key(*number);
  }
  PageMeter page(page_size(question.limit));
  std::vector<Job> found;
  auto scanned = store_.scan_back(Family::kJobs, {}, end, [&](auto, auto value) -> Result<bool> {
    auto job = decode<Job>(value);
    if (!job) return std::unexpected(std::move(job).error());
    found.push_back(std::move(*job));
    return page.count(found.back());
  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

Result<Job> JobBook::cancel(const JobId& id, Now now) {
  const auto number = job_number(id);
  if (!number) return std::unexpected(number.error());
  auto change = change_of(*number);
  if (!change) return std::unexpected(std::move(change).error());
  const JobState state = change->job.state;
  if (state == JobState::kCancelled || change->job.cancel_requested) return get(id);
  if (is_finished(state)) {
    return fail(Code::kConflict,
                std::format("{} cannot be cancelled any more: it has {}", id.text(), state_text(state)));
  }
  change->job.cancel_requested = true;
  if (is_waiting(state)) {
    finish(*change, JobState::kCancelled, "cancelled", now);
  } else {
    change->add("state", "asked to stop");
  }
  if (auto saved = save(std::move(*change), now); !saved) return std::unexpected(std::move(saved).error());
  return get(id);
}

Result<std::vector<JobEvent>> JobBook::events(const msg::ListJobEvents& question) const {
  const auto number = job_number(question.job);
  if (!number) return std::unexpected(number.error());
  if (auto job = change_of(*number); !job) return std::unexpected(std::move(job).error());
  PageMeter page(page_size(question.limit));
  std::vector<JobEvent> found;
  if (question.after == std::numeric_limits<std::uint64_t>::max()) return found;
  const std::string name = number_key(*number);
  auto scanned = store_.scan(Family::kJobEvents, numbered_key(name, question.after + 1), end_key(name),
                             [&](auto, auto value) -> Result<bool> {
                               auto event = decode<JobEvent>(value);
                               if (!event) return std::unexpected(std::move(event).error());
                               found.push_back(std::move(*event));
                               return page.count(found.back());
                             });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

// --- attempts ---

Result<msg::RunJob> JobBook::claim(const WorkerId& worker, Now now) {
  if (auto plain = check_text("worker id", worker.text(), 128); !plain) return std::unexpected(plain.error());
  if (worker.empty()) return fail(Code::kInvalidArgument, "a claim that names no worker");
  if (waiting_.empty()) return fail(Code::kNotFound, "no job waits");

  const std::uint64_t number = *waiting_.begin();
  const std::string name = number_key(number);
  auto change = change_of(number);
  if (!change) return std::unexpected(std::move(change).error());
  auto last = store_.get_record<Lease>(Family::kLeases, name);
  if (!last) return std::unexpected(std::move(last).error());

  Job& job = change->job;
  const Lease lease{.job = job.id,
                    .epoch = *last ? (*last)->epoch + 1 : 1,
                    .holder = worker,
                    .duration_ms = static_cast<std::uint32_t>(limits_.lease.count())};
  ++job.attempt;
  job.worker = worker;
  if (job.started_ms == 0) job.started_ms = now.unix_ms;
  change->enter(JobState::kStarting, std::format("attempt {} goes to trainer {}", job.attempt, worker.text()));
  change->batch.put_record(Family::kLeases, name, lease);
  if (auto saved = save(std::move(*change), now); !saved) return std::unexpected(std::move(saved).error());
  leases_.grant(lease.job, lease.epoch, lease.holder, now.steady);

  auto whole = get(lease.job);
  if (!whole) return std::unexpected(std::move(whole).error());
  return msg::RunJob{.job = std::move(*whole), .lease = lease};
}

Result<msg::JobOrders> JobBook::report(const msg::ReportJob& question, Now now) {
  auto change = change_under(question.lease);
  if (!change) return std::unexpected(std::move(change).error());
  const std::uint64_t number = change->number;
  std::size_t told = 0;
  if (const auto live = live_.find(number);
      live != live_.end() && live->second.reported_epoch == question.lease.epoch) {
    told = std::ranges::mismatch(live->second.reported, question.events).in2 - question.events.begin();
  }
  for (const JobEvent& event : std::span(question.events).subspan(told)) {
    const bool known =
        event.kind == "progress" || event.kind == "epoch" || event.kind == "checkpoint" || event.kind == "warning";
    if (!known) {
      return fail(Code::kInvalidArgument, std::format("an event of kind '{}', wanted progress, epoch, checkpoint or "
                                                      "warning",
                                                      event.kind));
    }
    change->add(event.kind, event.message);
    change->events.back().progress = event.progress;
    if (event.kind == "progress" || event.kind == "epoch") change->job.progress = event.progress;
  }
  const bool cancel = change->job.cancel_requested;
  if (!change->events.empty()) {
    if (auto saved = save(std::move(*change), now); !saved) {
      // The trainer is alive all the same: a full disk must not cost it the job.
      (void)leases_.renew(question.lease, now.steady);
      return std::unexpected(std::move(saved).error());
    }
  }
  if (!question.events.empty()) {
    Live& live = live_[number];
    live.reported_epoch = question.lease.epoch;
    live.reported = question.events;
  }
  if (auto renewed = leases_.renew(question.lease, now.steady); !renewed) return std::unexpected(renewed.error());
  return msg::JobOrders{.cancel = cancel, .lease_ms = static_cast<std::uint32_t>(limits_.lease.count())};
}

Result<void> JobBook::commit_checkpoint(const msg::CommitCheckpoint& question, Result<std::vector<StoredFile>> files,
                                        Now now) {
  auto change = change_under(question.lease);
  if (!change) return std::unexpected(std::move(change).error());
  auto last_upload = store_.get(Family::kMeta, checkpointed_key(change->number));
  if (!last_upload) return std::unexpected(std::move(last_upload).error());
  if (*last_upload && **last_upload == question.upload.text()) return leases_.renew(question.lease, now.steady);
  if (!files) return std::unexpected(std::move(files).error());

  const std::string name = number_key(change->number);
  auto last = store_.get_record<Checkpoint>(Family::kCheckpoints, name);
  if (!last) return std::unexpected(std::move(last).error());
  const Checkpoint checkpoint{.job = question.lease.job,
                              .number = *last ? (*last)->number + 1 : 1,
                              .attempt = change->job.attempt,
                              .files = std::move(*files),
                              .at_ms = now.unix_ms};
  change->add("checkpoint", std::format("checkpoint {}", checkpoint.number));
  change->events.back().progress = change->job.progress;
  change->batch.put_record(Family::kCheckpoints, name, checkpoint);
  change->batch.put(Family::kMeta, checkpointed_key(change->number), question.upload.text());
  change->batch.erase(Family::kMeta, lost_key(change->number));
  if (auto saved = save(std::move(*change), now); !saved) return saved;
  return leases_.renew(question.lease, now.steady);
}

Result<std::vector<Checkpoint>> JobBook::checkpoint(const JobId& id) const {
  const auto number = job_number(id);
  if (!number) return std::unexpected(number.error());
  if (auto job = change_of(*number); !job) return std::unexpected(std::move(job).error());
  auto found = store_.get_record<Checkpoint>(Family::kCheckpoints, number_key(*number));
  if (!found) return std::unexpected(std::move(found).error());
  std::vector<Checkpoint> checkpoints;
  if (*found) checkpoints.push_back(std::move(**found));
  return checkpoints;
}

Result<Version> JobBook::publish(const msg::Publish& question, Result<std::vector<StoredFile>> files, Now now) {
  const auto repeated = ended_with(question.lease, kPublished);
  if (!repeated) return std::unexpected(repeated.error());
  if (*repeated) {
    const auto job = get(question.lease.job);
    if (!job) return std::unexpected(job.error());
    return catalog_.version({.model = job->model, .version = job->version, .alias = {}});
  }
  auto change = change_under(question.lease);
  if (!change) return std::unexpected(std::move(change).error());
  if (auto whole = check_signature(question.signature); !whole) return std::unexpected(whole.error());
  if (!files) return std::unexpected(std::move(files).error());

  Job& job = change->job;
  Version version;
  version.model = job.model;
  version.signature = question.signature;
  version.metrics = question.metrics;
  version.lineage = {.job = job.id,
                     .dataset = job.dataset,
                     .dataset_version = job.dataset_version,
                     .dataset_digest = job.dataset_digest,
                     .spec_digest = job.spec_digest,
                     .seed = job.seed};
  version.files = std::move(*files);
  version.actor = job.id.text();
  auto added = catalog_.add_version(change->batch, std::move(version), now.unix_ms);
  if (!added) return added;
  job.version = added->number;
  finish(*change, JobState::kSucceeded, std::format("version {} of {}", added->number, added->model), now);
  end_lease(*change, question.lease, kPublished);
  if (auto saved = save(std::move(*change), now); !saved) return std::unexpected(std::move(saved).error());
  leases_.release(question.lease.job);
  return added;
}

Result<void> JobBook::end_attempt(const msg::EndAttempt& question, Now now) {
  const auto repeated = ended_with(question.lease, kEnded);
  if (!repeated) return std::unexpected(repeated.error());
  if (*repeated) return {};
  const auto number = job_number(question.lease.job);
  if (!number) return std::unexpected(number.error());
  auto change = change_of(*number);
  if (!change) return std::unexpected(std::move(change).error());
  if (auto valid = leases_.check(question.lease); !valid) return valid;

  Job& job = change->job;
  const std::string message = question.message.empty() ? "no reason was given" : question.message;
  if (question.outcome == msg::Outcome::kCancelled) {
    finish(*change, JobState::kCancelled, "cancelled", now);
  } else if (question.outcome == msg::Outcome::kFailed && !question.retry) {
    job.reason = question.reason.empty() ? "INTERNAL" : question.reason;
    finish(*change, JobState::kFailed, message, now);
  } else if (question.outcome == msg::Outcome::kFailed) {
    const std::string reason = question.reason.empty() ? "INTERNAL" : question.reason;
    if (auto done = requeue_or_fail(*change, reason, message, now); !done) return done;
  } else if (job.cancel_requested) {
    finish(*change, JobState::kCancelled, "cancelled", now);
  } else if (job.state == JobState::kStarting) {
    --job.attempt;  // it never began
    change->enter(JobState::kQueued, std::format("given back by trainer {}: {}", job.worker.text(), message));
  } else {
    change->enter(JobState::kRetrying, std::format("attempt {} was given back: {}", job.attempt, message));
  }
  end_lease(*change, question.lease, kEnded);
  if (auto saved = save(std::move(*change), now); !saved) return saved;
  leases_.release(question.lease.job);
  return {};
}

Result<void> JobBook::expire(Now now) {
  Result<void> result;
  for (const Lease& lease : leases_.take_expired(now.steady)) {
    const auto settle = [&]() -> Result<void> {
      const auto number = job_number(lease.job);
      if (!number) return std::unexpected(number.error());
      auto change = change_of(*number);
      if (!change) return std::unexpected(std::move(change).error());
      auto message = std::format("trainer {} was not heard of for {} ms", lease.holder.text(), lease.duration_ms);
      if (auto done = requeue_or_fail(*change, "WORKER_LOST", std::move(message), now); !done) return done;
      return save(std::move(*change), now);
    };
    if (auto settled = settle(); !settled) {
      // The disk may be full: the job stays with its holder until this can be written.
      leases_.grant(lease.job, lease.epoch, lease.holder, now.steady);
      result = std::move(settled);
    }
  }
  return result;
}

}  // namespace slipway::registry

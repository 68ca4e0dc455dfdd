#include "services/registry/job_book.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <limits>
#include <span>

#include "lib/base/random_id.h"
#include "lib/base/secret.h"
#include "lib/base/sha256.h"
#include "lib/wire/page.h"
#include "services/registry/checkpoint_interval.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::string_view kPublished = "published";
constexpr std::string_view kEnded = "ended";
constexpr std::size_t kMaxMessageBytes = 8'000;  // of an event or an end, which trainers word
constexpr std::size_t kMaxMetrics = 1'000;
constexpr std::size_t kMaxRetired = 100'000;                 // those that are too many wait for the sweep
constexpr std::size_t kMaxPurged = 10'000;                   // in one commit
constexpr auto kCheckpointSlack = std::chrono::seconds(10);  // what an attempt does besides

bool is_finished(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed || state == JobState::kCancelled;
}
bool is_waiting(JobState state) { return state == JobState::kQueued || state == JobState::kRetrying; }

// `state` is one that this release knows.
std::string_view state_text(JobState state) {
  constexpr std::array kTexts{"queued",    "starting", "running",  "waiting for another attempt",
                              "succeeded", "failed",   "cancelled"};
  return kTexts.at(static_cast<std::size_t>(state));
}

// Marks of a job in the meta family.
std::string ended_key(std::uint64_t job) { return "ended/" + number_key(job); }
std::string lost_key(std::uint64_t job) { return "lost/" + number_key(job); }
std::string short_key(std::uint64_t job) { return "short/" + number_key(job); }
std::string reported_key(std::uint64_t job) { return "reported/" + number_key(job); }
std::string checkpointed_key(std::uint64_t job) { return "checkpointed/" + number_key(job); }

void retire(const Checkpoint& checkpoint, std::vector<Digest>& retired) {
  for (const StoredFile& file : checkpoint.files) {
    retired.insert(retired.end(), file.chunks.begin(), file.chunks.end());
  }
}

// "epoch word", as some marks are.
std::uint64_t epoch_of(std::string_view mark) {
  std::uint64_t epoch = 0;
  std::from_chars(mark.data(), mark.data() + mark.size(), epoch);
  return epoch;
}

}  // namespace

JobBook::JobBook(RocksStore& store, Catalog& catalog, JobLimits limits)
    : store_(store), catalog_(catalog), quarantines_(store), marks_(store), limits_(limits), leases_(limits.lease) {}

Result<void> JobBook::load(Now now) {
  std::vector<Job> unfinished;
  auto scanned = store_.scan(Family::kJobs, {}, {}, [&](std::string_view key, std::string_view value) -> Result<bool> {
    last_job_ = number_of(key);
    auto job = store_.read<Job>(Family::kJobs, key, value);
    if (!job || !is_known(job->state)) return true;
    ++by_state_[static_cast<std::size_t>(job->state)];
    if (is_finished(job->state)) return true;
    job->id = job_id(last_job_);
    unfinished.push_back(std::move(*job));
    return true;
  });
  if (!scanned) return scanned;

  for (const Job& job : unfinished) {
    const std::uint64_t number = *job_number(job.id);
    Live& live = live_[number];
    live.unsaved_since = now.steady;
    const std::string name = number_key(number);
    scanned = store_.scan(Family::kJobEvents, first_key(name), end_key(name),
                          [&](std::string_view key, std::string_view value) -> Result<bool> {
                            live.last_event = number_of(key);
                            const auto event = store_.read<JobEvent>(Family::kJobEvents, key, value);
                            if (event && event->kind == "progress") live.progress_events.push_back(live.last_event);
                            if (event && event->kind == "checkpoint") live.checkpoint_events.push_back(live.last_event);
                            return true;
                          });
    if (!scanned) return scanned;
    auto reported = store_.get(Family::kMeta, reported_key(number));
    if (!reported) return std::unexpected(std::move(reported).error());
    if (*reported) {
      live.reported_epoch = epoch_of(**reported);
      live.reported_number = number_of(**reported);
    }
    if (is_waiting(job.state)) {
      waiting_.insert(number);
      continue;
    }
    auto lease = store_.get_record<Lease>(Family::kLeases, name);
    if (!lease && lease.error().code != Code::kDataLoss) return std::unexpected(std::move(lease).error());
    if (lease && *lease) {
      leases_.grant(**lease, now.steady);
      continue;
    }
    if (lease) (void)store_.set_aside(Family::kLeases, name, 0, "it is missing");
    // Nobody can show it: the job is taken back like a lost one. No grant has epoch 0.
    leases_.grant({.job = job.id, .epoch = 0, .holder = job.worker, .token = random_hex(128)}, now.steady);
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

Result<Job> JobBook::job_of(std::uint64_t number) const {
  auto job = store_.get_record<Job>(Family::kJobs, number_key(number));
  if (!job) return std::unexpected(std::move(job).error());
  if (!*job) return fail(Code::kNotFound, std::format("there is no job '{}'", job_id(number).text()));
  return std::move(**job);
}

Result<JobBook::Change> JobBook::change_of(std::uint64_t number) const {
  auto job = job_of(number);
  if (!job) return std::unexpected(std::move(job).error());
  if (!is_known(job->state)) {
    return fail(Code::kConflict, std::format("{} is in a state of a later release ({}): this one does not change it",
                                             job_id(number).text(), static_cast<int>(job->state)));
  }
  Change change;
  change.number = number;
  change.before = job->state;
  change.job = std::move(*job);
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
  // What is remembered follows only after the commit, so the kinds that are capped are counted here first.
  Live& live = live_[change.number];
  struct Capped {
    std::string_view kind;
    std::deque<std::uint64_t>& kept;
    std::size_t max;
    std::vector<std::uint64_t> added;
    [[nodiscard]] std::size_t surplus() const {
      const std::size_t all = kept.size() + added.size();
      return all > max ? all - max : 0;
    }
  };
  std::array<Capped, 2> capped{Capped{"progress", live.progress_events, limits_.max_progress_events, {}},
                               Capped{"checkpoint", live.checkpoint_events, limits_.max_checkpoint_events, {}}};
  const std::string name = number_key(change.number);
  std::uint64_t last_event = live.last_event;
  for (JobEvent& event : change.events) {
    event.id = ++last_event;
    event.at_ms = now.unix_ms;
    for (Capped& kind : capped) {
      if (event.kind == kind.kind) kind.added.push_back(event.id);
    }
    change.batch.put_record(Family::kJobEvents, numbered_key(name, event.id), event);
  }
  for (const Capped& kind : capped) {
    for (std::size_t i = 0; i < kind.surplus(); ++i) {
      const std::uint64_t oldest = i < kind.kept.size() ? kind.kept[i] : kind.added[i - kind.kept.size()];
      change.batch.erase(Family::kJobEvents, numbered_key(name, oldest));
    }
  }
  change.batch.put_record(Family::kJobs, name, change.job);
  change.batch.tell({.subject = msg::Subject::kJob,
                     .key = change.job.id.text(),
                     .last_event = last_event,
                     .state = change.job.state});
  if (auto done = store_.commit(std::move(change.batch)); !done) {
    if (change.is_new) live_.erase(change.number);
    return done;
  }

  live.last_event = last_event;
  for (Capped& kind : capped) {
    const std::size_t surplus = kind.surplus();
    kind.kept.insert(kind.kept.end(), kind.added.begin(), kind.added.end());
    kind.kept.erase(kind.kept.begin(), kind.kept.begin() + static_cast<std::ptrdiff_t>(surplus));
  }
  const JobState state = change.job.state;
  if (!change.is_new) --by_state_[static_cast<std::size_t>(change.before)];
  ++by_state_[static_cast<std::size_t>(state)];
  if (is_waiting(state)) {
    waiting_.insert(change.number);
  } else {
    waiting_.erase(change.number);
  }
  if (is_finished(state)) live_.erase(change.number);
  if (retired_.size() < kMaxRetired) retired_.insert(retired_.end(), change.retired.begin(), change.retired.end());
  return {};
}

void JobBook::finish(Change& change, JobState state, std::string message, Now now) const {
  change.job.finished_ms = now.unix_ms;
  change.job.message = message;
  change.enter(state, std::move(message));
  const std::string name = number_key(change.number);
  if (const auto checkpoint = store_.get_record<Checkpoint>(Family::kCheckpoints, name); checkpoint) {
    if (*checkpoint) retire(**checkpoint, change.retired);
    change.batch.erase(Family::kCheckpoints, name);  // what cannot be read stays
  }
  change.batch.erase(Family::kMeta, lost_key(change.number));
  change.batch.erase(Family::kMeta, short_key(change.number));
  change.batch.erase(Family::kMeta, reported_key(change.number));
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
  if (!*mark || **mark != std::format("{} {}", lease.epoch, what)) return false;
  // The lease is no longer in force, but its holder alone may ask for what has become of it.
  auto last = store_.get_record<Lease>(Family::kLeases, number_key(*number));
  if (!last) return std::unexpected(std::move(last).error());
  return !*last || (*last)->epoch != lease.epoch || same_secret((*last)->token, lease.token);
}

// One more under `key`.
Result<std::uint64_t> JobBook::count(Change& change, std::string key) const {
  auto mark = store_.get(Family::kMeta, key);
  if (!mark) return std::unexpected(std::move(mark).error());
  const std::uint64_t counted = (*mark ? number_of(**mark) : 0) + 1;
  change.batch.put(Family::kMeta, std::move(key), number_key(counted));
  return counted;
}

// After an attempt that had its time, and failed or was lost.
Result<void> JobBook::retry_or_fail(Change& change, std::string reason, std::string message, Now now) const {
  const auto lost = count(change, lost_key(change.number));
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

// After a trainer was lost. Whatever killed it may have had nothing to do with the job, so an attempt that had no time
// for a checkpoint says little against it; but without one there is no progress either, and so their number is bounded.
Result<void> JobBook::take_back(Change& change, const Lease& lease, Now now) const {
  if (change.job.cancel_requested) {
    finish(change, JobState::kCancelled, "cancelled", now);
    return {};
  }
  auto message = std::format("trainer {} was not heard of for {} ms", lease.holder.text(), leases_.duration().count());
  const auto document = store_.get(Family::kDocuments, number_key(change.number));
  if (!document) return std::unexpected(document.error());
  const auto every = checkpoint_interval(document->value_or(""), limits_.checkpoint_every);
  const auto live = live_.find(change.number);
  const auto lived = live == live_.end() ? LeaseTable::TimePoint::duration()
                                         : now.steady - leases_.duration() - live->second.unsaved_since;
  if (lived >= 2 * every + kCheckpointSlack) return retry_or_fail(change, "WORKER_LOST", std::move(message), now);

  const auto lost = count(change, short_key(change.number));
  if (!lost) return std::unexpected(lost.error());
  if (*lost < limits_.max_short_attempts) {
    change.enter(JobState::kRetrying, std::format("attempt {}: {}", change.job.attempt, message));
    return {};
  }
  change.job.reason = "WORKER_LOST";
  finish(change, JobState::kFailed,
         std::format("{} attempts in a row ended before there was time for a checkpoint, which comes every {} s, the "
                     "last: {}",
                     *lost, std::chrono::duration<double>(every).count(), message),
         now);
  return {};
}

// --- asked by gateways ---

Result<Job> JobBook::create(const msg::CreateJob& question, Now now) {
  const Job& asked = question.job;
  if (auto plain = check_text("idempotency key", question.idempotency_key, kMaxKeyBytes); !plain) {
    return std::unexpected(plain.error());
  }
  if (auto plain = check_text("actor", asked.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());
  const Digest document = sha256(asked.document);
  if (!question.idempotency_key.empty()) {
    const auto made = marks_.submission(asked.actor, question.idempotency_key, now.unix_ms);
    if (!made) return std::unexpected(made.error());
    if (*made) {
      auto first = get(job_id((*made)->job));
      if (!first) return first;
      const Digest before = (*made)->document.value_or(first->spec_digest);
      if (before == document) return first;
      // A mark of an earlier release may be anybody's.
      if ((*made)->document || asked.actor.empty()) {
        return fail(Code::kConflict,
                    std::format("the idempotency key was used within the last day for {}, whose document has the "
                                "SHA-256 {}; this one has {}",
                                first->id.text(), to_hex(before), to_hex(document)));
      }
    }
  }
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
  if (auto later = later_release(*dataset); !later.empty()) {
    return fail_at("$.dataset", Code::kUnsupported,
                   std::format("{} of data set '{}' is of a later release", later, dataset->name));
  }

  Change change;
  change.number = last_job_ + 1;
  change.is_new = true;
  Job& job = change.job;
  job.id = job_id(change.number);
  job.spec_digest = document;
  job.model = asked.model;
  job.dataset = dataset->name;
  job.dataset_version = dataset->version;
  job.dataset_digest = dataset->digest;
  job.seed = asked.seed;
  job.created_ms = now.unix_ms;
  job.request_id = asked.request_id;
  job.actor = asked.actor;
  change.enter(JobState::kQueued, "queued");
  change.batch.put(Family::kDocuments, number_key(change.number), asked.document);
  if (!question.idempotency_key.empty()) {
    RepeatMarks::put_submission(change.batch, asked.actor, question.idempotency_key, change.number, document,
                                now.unix_ms);
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
  auto job = job_of(*number);
  if (!job) return job;
  auto document = store_.get(Family::kDocuments, number_key(*number));
  if (!document) return std::unexpected(std::move(document).error());
  if (!*document) {
    return std::unexpected(store_.set_aside(Family::kDocuments, number_key(*number), 0, "it is missing"));
  }
  job->document = std::move(**document);
  return job;
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
  auto scanned = store_.scan_records_back<Job>(Family::kJobs, {}, end, [&](auto, Job job) -> Result<bool> {
    found.push_back(std::move(job));
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
  if (auto job = job_of(*number); !job) return std::unexpected(std::move(job).error());
  PageMeter page(page_size(question.limit));
  std::vector<JobEvent> found;
  if (question.after == std::numeric_limits<std::uint64_t>::max()) return found;
  const std::string name = number_key(*number);
  auto scanned = store_.scan_records<JobEvent>(Family::kJobEvents, numbered_key(name, question.after + 1),
                                               end_key(name), [&](auto, JobEvent event) -> Result<bool> {
                                                 found.push_back(std::move(event));
                                                 return page.count(found.back());
                                               });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

Result<bool> JobBook::purge_marks(Now now) {
  Batch batch;
  batch.stay_quiet();
  auto more = marks_.purge(batch, now.unix_ms, kMaxPurged);
  if (!more || batch.empty()) return more;
  return store_.commit(std::move(batch)).transform([&] { return *more; });
}

// --- attempts ---

// Errors: kDataLoss (something of it cannot be read).
Result<JobBook::Order> JobBook::order_of(std::uint64_t number) const {
  auto change = change_of(number);
  if (!change) return std::unexpected(std::move(change).error());
  const std::string name = number_key(number);
  auto document = store_.get(Family::kDocuments, name);
  if (!document) return std::unexpected(std::move(document).error());
  if (!*document) return std::unexpected(store_.set_aside(Family::kDocuments, name, 0, "it is missing"));
  auto last = store_.get_record<Lease>(Family::kLeases, name);
  if (!last) return std::unexpected(std::move(last).error());
  auto ended = store_.get(Family::kMeta, ended_key(number));
  if (!ended) return std::unexpected(std::move(ended).error());

  Order order{.change = std::move(*change), .document = std::move(**document), .last_epoch = 0};
  // Where the last lease is missing, no epoch that may have been granted comes again.
  order.last_epoch = *last ? (*last)->epoch : order.change.job.attempt;
  if (*ended) order.last_epoch = std::max(order.last_epoch, epoch_of(**ended));
  return order;
}

Result<msg::RunJob> JobBook::claim(const msg::ClaimJob& question, Now now) {
  const WorkerId& worker = question.worker;
  if (auto plain = check_line("worker id", worker.text(), 128); !plain) return std::unexpected(plain.error());
  if (worker.empty()) return fail(Code::kInvalidArgument, "a claim that names no worker");
  if (question.number == 0) return claim_next(worker, now);

  const auto last = claims_.find(worker);
  if (last != claims_.end() && question.number <= last->second.number) {
    if (question.number == last->second.number && !last->second.job.empty())
      return claimed_before(worker, last->second.job);
    return fail(Code::kNotFound, std::format("claim {} was answered before: no job waited", question.number));
  }
  // A claim from before this registry's start, or nothing is known of this worker: who claims runs no job.
  if (const auto held = leases_.held_by(worker); held && last == claims_.end()) {
    auto run = claimed_before(worker, *held);
    if (run) remember_claim(question, run->job.id, now);
    return run;
  }
  auto run = claim_next(worker, now);
  if (run || run.error().code == Code::kNotFound) remember_claim(question, run ? run->job.id : JobId(), now);
  return run;
}

void JobBook::remember_claim(const msg::ClaimJob& question, JobId job, Now now) {
  constexpr std::size_t kMany = 1'000;
  constexpr auto kLong = std::chrono::hours(1);
  if (claims_.size() >= kMany)
    std::erase_if(claims_, [&](const auto& claim) { return now.steady - claim.second.at > kLong; });
  claims_.insert_or_assign(question.worker,
                           LastClaim{.number = question.number, .job = std::move(job), .at = now.steady});
}

Result<msg::RunJob> JobBook::claimed_before(const WorkerId& worker, const JobId& job) const {
  const auto number = job_number(job);
  if (!number || leases_.held_by(worker) != job)
    return fail(Code::kNotFound, std::format("the lease of {} has ended since it was claimed", job.text()));
  auto order = order_of(*number);
  if (!order) return std::unexpected(std::move(order).error());
  auto lease = store_.get_record<Lease>(Family::kLeases, number_key(*number));
  if (!lease) return std::unexpected(std::move(lease).error());
  if (!*lease || !leases_.check(**lease)) return fail(Code::kNotFound, "the lease has ended since it was claimed");
  msg::RunJob run{.job = std::move(order->change.job), .lease = std::move(**lease)};
  run.job.document = std::move(order->document);
  return run;
}

Result<msg::RunJob> JobBook::claim_next(const WorkerId& worker, Now now) {
  Result<Order> order = fail(Code::kNotFound, "no job waits");
  for (const std::uint64_t number : waiting_) {
    auto next = order_of(number);
    if (!next && next.error().code == Code::kDataLoss) continue;  // set aside; it stops nobody else's job
    order = std::move(next);
    break;
  }
  if (!order) return std::unexpected(std::move(order).error());

  const std::uint64_t number = order->change.number;
  Job& job = order->change.job;
  const Lease lease{.job = job.id,
                    .epoch = order->last_epoch + 1,
                    .holder = worker,
                    .duration_ms = static_cast<std::uint32_t>(limits_.lease.count()),
                    .token = random_hex(128)};
  ++job.attempt;
  job.worker = worker;
  if (job.started_ms == 0) job.started_ms = now.unix_ms;
  order->change.enter(JobState::kStarting, std::format("attempt {} goes to trainer {}", job.attempt, worker.text()));
  order->change.batch.put_record(Family::kLeases, number_key(number), lease);
  Job claimed = job;
  if (auto saved = save(std::move(order->change), now); !saved) return std::unexpected(std::move(saved).error());
  leases_.grant(lease, now.steady);
  Live& live = live_[number];
  live.unsaved_since = now.steady;
  live.last_checkpoint.reset();

  claimed.document = std::move(order->document);
  return msg::RunJob{.job = std::move(claimed), .lease = lease};
}

Result<msg::JobOrders> JobBook::report(const msg::ReportJob& question, Now now) {
  auto change = change_under(question.lease);
  if (!change) return std::unexpected(std::move(change).error());
  const std::uint64_t number = change->number;
  const bool numbered = question.number > 0;
  std::size_t told = 0;
  if (const auto live = live_.find(number);
      live != live_.end() && live->second.reported_epoch == question.lease.epoch) {
    if (!numbered) {
      told = std::ranges::mismatch(live->second.reported, question.events).in2 - question.events.begin();
    } else if (question.number <= live->second.reported_number) {
      told = question.events.size();
    }
  }
  const auto fresh = std::span(question.events).subspan(told);
  for (const JobEvent& event : fresh) {
    const bool known =
        event.kind == "progress" || event.kind == "epoch" || event.kind == "checkpoint" || event.kind == "warning";
    if (!known) {
      return fail(Code::kInvalidArgument, std::format("an event of kind '{}', wanted progress, epoch, checkpoint or "
                                                      "warning",
                                                      plain_text(event.kind, 100)));
    }
    change->add(event.kind, plain_text(event.message, kMaxMessageBytes));
    Progress& progress = change->events.back().progress;
    progress = event.progress;
    if (progress.metrics.size() > kMaxMetrics) progress.metrics.resize(kMaxMetrics);
    if (event.kind == "progress" || event.kind == "epoch") change->job.progress = progress;
  }
  if (numbered && !fresh.empty()) {
    change->batch.put(Family::kMeta, reported_key(number),
                      std::format("{} {}", question.lease.epoch, number_key(question.number)));
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
    if (live.reported_epoch != question.lease.epoch) live.reported_number = 0;
    live.reported_epoch = question.lease.epoch;
    live.reported_number = std::max(live.reported_number, question.number);
    live.reported = numbered ? std::vector<JobEvent>() : question.events;
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
  Live& live = live_[change->number];
  if (live.last_checkpoint && now.steady - *live.last_checkpoint < limits_.min_between_checkpoints) {
    return std::unexpected(Error{
        .code = Code::kOverloaded,
        .message = std::format("the last checkpoint came less than {} ms ago", limits_.min_between_checkpoints.count()),
        .path = {},
        .retry_after = limits_.min_between_checkpoints});
  }

  const std::string name = number_key(change->number);
  auto last = store_.get_record<Checkpoint>(Family::kCheckpoints, name);
  // One that cannot be read is of no use to anybody, and must not stand in the way of those that come: they replace it.
  if (!last && last.error().code == Code::kDataLoss) last = std::nullopt;
  if (!last) return std::unexpected(std::move(last).error());
  const Checkpoint checkpoint{.job = question.lease.job,
                              .number = *last ? (*last)->number + 1 : 1,
                              .attempt = change->job.attempt,
                              .files = std::move(*files),
                              .at_ms = now.unix_ms};
  if (*last) retire(**last, change->retired);
  change->add("checkpoint", std::format("checkpoint {}", checkpoint.number));
  change->events.back().progress = change->job.progress;
  change->batch.put_record(Family::kCheckpoints, name, checkpoint);
  change->batch.put(Family::kMeta, checkpointed_key(change->number), question.upload.text());
  change->batch.erase(Family::kMeta, lost_key(change->number));
  change->batch.erase(Family::kMeta, short_key(change->number));
  if (auto saved = save(std::move(*change), now); !saved) return saved;
  live.unsaved_since = now.steady;
  live.last_checkpoint = now.steady;
  return leases_.renew(question.lease, now.steady);
}

Result<std::vector<Checkpoint>> JobBook::checkpoint(const JobId& id) const {
  const auto number = job_number(id);
  if (!number) return std::unexpected(number.error());
  if (auto job = job_of(*number); !job) return std::unexpected(std::move(job).error());
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
  if (question.metrics.size() > kMaxMetrics) {
    return fail(Code::kTooLarge, std::format("{} metrics, at most {} are kept", question.metrics.size(), kMaxMetrics));
  }
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
  if (auto filled = quarantines_.fill(*added); !filled) return std::unexpected(filled.error());
  return added;
}

Result<void> JobBook::end_attempt(const msg::EndAttempt& question, Now now) {
  if (question.outcome > msg::Outcome::kReleased) {
    return fail(Code::kInvalidArgument,
                std::format("an outcome of a later release: {}", static_cast<int>(question.outcome)));
  }
  const auto repeated = ended_with(question.lease, kEnded);
  if (!repeated) return std::unexpected(repeated.error());
  if (*repeated) return {};
  const auto number = job_number(question.lease.job);
  if (!number) return std::unexpected(number.error());
  auto change = change_of(*number);
  if (!change) return std::unexpected(std::move(change).error());
  if (auto valid = leases_.check(question.lease); !valid) return valid;

  Job& job = change->job;
  const std::string message =
      question.message.empty() ? "no reason was given" : plain_text(question.message, kMaxMessageBytes);
  const std::string reason = question.reason.empty() ? "INTERNAL" : plain_text(question.reason, 100);
  if (question.outcome == msg::Outcome::kCancelled) {
    finish(*change, JobState::kCancelled, "cancelled", now);
  } else if (question.outcome == msg::Outcome::kFailed && !question.retry) {
    job.reason = reason;
    finish(*change, JobState::kFailed, message, now);
  } else if (job.cancel_requested) {
    finish(*change, JobState::kCancelled, "cancelled", now);
  } else if (question.outcome == msg::Outcome::kFailed) {
    if (auto done = retry_or_fail(*change, reason, message, now); !done) return done;
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
      if (auto done = take_back(*change, lease, now); !done) return done;
      return save(std::move(*change), now);
    };
    if (auto settled = settle(); !settled) {
      if (settled.error().code == Code::kDataLoss) continue;  // set aside
      // The disk may be full: the job stays with its holder until this can be written.
      leases_.grant(lease, now.steady);
      result = std::move(settled);
    }
  }
  return result;
}

}  // namespace slipway::registry

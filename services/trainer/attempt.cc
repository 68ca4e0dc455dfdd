#include "services/trainer/attempt.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <format>
#include <new>
#include <optional>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "lib/base/sha256.h"
#include "lib/wire/blob_transfer.h"
#include "services/trainer/memory_need.h"
#include "services/trainer/metrics.h"
#include "services/trainer/pace.h"
#include "services/trainer/training.h"
#include "services/trainer/upload_guard.h"

namespace slipway::trainer {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

const Caller::Options kRead{.deadline = 10s, .repeat_after = 2s, .request_id = {}};
const Caller::Options kWrite{.deadline = 10s, .repeat_after = 2s, .request_id = {}};
constexpr auto kBetweenWarnings = 30s;
constexpr auto kFinalWords = 10s;  // for the last checkpoint and for giving the job back

bool not_now(const Error& error) {
  return error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded || error.code == Code::kOverloaded;
}

// Whether the same question may still be answered: what is unavailable and names no time to come again stays so, such
// as an upload that the registry no longer has.
bool not_yet(const Error& error) {
  return not_now(error) && (error.code != Code::kUnavailable || error.retry_after.count() > 0);
}

// What people are told is bounded: torch's messages may hold whole graphs.
std::string shortened(std::string text) {
  constexpr std::size_t kMost = 4096;
  if (text.size() <= kMost) return text;
  std::size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // between two characters
  text.resize(end);
  return text + "...";
}

// torch says "out of memory" in words only.
bool is_out_of_memory(std::string_view what) {
  return what.contains("can't allocate memory") || what.contains("not enough memory") || what.contains("out of memory");
}

std::unexpected<Failure> failure(std::string reason, const Error& error, bool retry = false) {
  std::string message = error.path.empty() ? error.message : error.path + ": " + error.message;
  return std::unexpected(Failure{std::move(reason), std::move(message), retry});
}

Failure thrown(std::string_view what) {
  const bool memory = is_out_of_memory(what);
  return {memory ? "OOM" : "INTERNAL", std::string(what), memory};
}

JobEvent event(std::string kind, std::string message, Progress progress = {}) {
  JobEvent e;
  e.kind = std::move(kind);
  e.state = JobState::kRunning;
  e.message = shortened(std::move(message));
  e.progress = std::move(progress);
  return e;
}

}  // namespace

std::string_view attempt_end_name(AttemptEnd end) {
  switch (end) {
    case AttemptEnd::kPublished:
      return "published";
    case AttemptEnd::kFailed:
      return "failed";
    case AttemptEnd::kCancelled:
      return "cancelled";
    case AttemptEnd::kReleased:
      return "released";
    case AttemptEnd::kLost:
      return "lost";
  }
  return "";
}

Attempt::Attempt(Caller& registry, msg::RunJob order, AttemptSettings settings)
    : registry_(registry),
      order_(std::move(order)),
      settings_(std::move(settings)),
      cache_(data_folder(settings_), settings_.cache_bytes) {}

void Attempt::release() {
  released_ = true;
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Attempt::pause(std::chrono::milliseconds time) {
  constexpr std::chrono::milliseconds kLook = 250ms;  // the reporter learns of a lost lease without waking this thread
  const auto until = Clock::now() + time;
  std::unique_lock lock(mutex_);
  while (!interrupted() && Clock::now() < until) changed_.wait_until(lock, std::min(until, Clock::now() + kLook));
}

template <class Ask>
auto Attempt::until_answered(Ask ask) -> decltype(ask()) {
  return until_answered(std::move(ask), not_now);
}

template <class Ask>
auto Attempt::until_answered(Ask ask, bool (*waits)(const Error&)) -> decltype(ask()) {
  std::optional<Clock::time_point> warned;
  for (int failures = 1;; ++failures) {
    auto answer = ask();
    if (answer || !waits(answer.error()) || interrupted()) return answer;
    if (const auto now = Clock::now(); !warned || now - *warned >= kBetweenWarnings) {
      warned = now;
      spdlog::warn("attempt waits job={} code={} reason={}", order_.job.id.text(), code_name(answer.error().code),
                   log_value(answer.error().message));
    }
    pause(std::max(pause_after(failures), answer.error().retry_after));
    if (interrupted()) return answer;
  }
}

AttemptEnd Attempt::interruption() const {
  if (reporter_->lost()) return AttemptEnd::kLost;
  return reporter_->cancelled() ? AttemptEnd::kCancelled : AttemptEnd::kReleased;
}

void Attempt::warn(const std::string& message) {
  spdlog::warn("job warning job={} message={}", order_.job.id.text(), log_value(message));
  reporter_->add(event("warning", message));
}

AttemptEnd Attempt::run() {
  settle_training_thread();
  const auto& job = order_.job;
  spdlog::info("attempt started job={} attempt={} epoch={} request_id={}", job.id.text(), job.attempt,
               order_.lease.epoch, log_value(job.request_id));
  reporter_ = std::make_unique<LeaseReporter>(registry_, order_.lease, job.request_id);
  std::expected<AttemptEnd, Failure> result;
  try {
    result = train();
  } catch (const std::bad_alloc&) {
    result = std::unexpected(Failure{"OOM", "out of memory", true});
  } catch (const c10::Error& e) {
    result = std::unexpected(thrown(e.what_without_backtrace()));
  } catch (const std::exception& e) {
    result = std::unexpected(thrown(e.what()));
  } catch (...) {
    result = std::unexpected(thrown("something that is no exception was thrown"));
  }
  // What stopped the attempt from outside counts more than what failed because of it.
  if (!result && interrupted()) result = interruption();

  AttemptEnd ended = AttemptEnd::kFailed;
  if (result) {
    ended = *result;
    if (ended == AttemptEnd::kCancelled) end(msg::Outcome::kCancelled, {}, std::chrono::milliseconds::max());
    if (ended == AttemptEnd::kReleased) end(msg::Outcome::kReleased, {}, kFinalWords);
  } else {
    spdlog::warn("attempt failed job={} reason={} message={}", job.id.text(), result.error().reason,
                 log_value(result.error().message));
    end(msg::Outcome::kFailed, result.error(), std::chrono::milliseconds::max());
  }
  reporter_.reset();
  metrics().attempts.Add({{"outcome", std::string(attempt_end_name(ended))}}).Increment();
  spdlog::info("attempt ended job={} outcome={}", job.id.text(), attempt_end_name(ended));
  return ended;
}

void Attempt::end(msg::Outcome outcome, const Failure& failure, std::chrono::milliseconds limit) {
  reporter_->flush(2s);
  const auto begun = Clock::now();
  const msg::EndAttempt words{order_.lease, outcome, failure.reason, shortened(failure.message), failure.retry};
  for (int failures = 1;; ++failures) {
    auto answer = registry_.call_and_wait(words, {}, kWrite);
    if (answer || reporter_->lost()) return;
    spdlog::warn("end of attempt not taken job={} code={} reason={}", order_.job.id.text(),
                 code_name(answer.error().code), log_value(answer.error().message));
    if (!not_now(answer.error())) return;
    // A trainer that is going away leaves the rest to the lease's end.
    if (released_ && Clock::now() - begun > std::min<std::chrono::milliseconds>(limit, kFinalWords)) return;
    std::unique_lock lock(mutex_);
    // Longer waits end where a stop begins; from then on only the short ones are left time for.
    const auto wait = released_ ? pause_after(1) : pause_after(failures);
    changed_.wait_for(lock, wait, [&, before = released_.load()] { return released_ != before; });
  }
}

Attempt::Step<TrainingData> Attempt::fetch_data(const keras::JobSpec& spec) {
  const auto& job = order_.job;
  auto answer = until_answered([&] {
    return Caller::as<msg::Datasets>(
        registry_.call_and_wait(msg::GetDataset{job.dataset, job.dataset_version}, {}, kRead));
  });
  if (!answer) return failure("DATA_ERROR", answer.error());
  if (answer->items.size() != 1) {
    return std::unexpected(Failure{
        "DATA_ERROR",
        std::format("{} data sets '{}' version {}", answer->items.size(), job.dataset, job.dataset_version), false});
  }
  const auto& dataset = answer->items.front();
  if (auto fits = keras::check_against(spec, dataset); !fits) return failure("DATA_ERROR", fits.error());
  // Before anything is downloaded or made.
  const auto memory = settings_.memory_bytes > 0 ? settings_.memory_bytes : memory_left();
  if (auto fits = check_memory(spec, data_bytes(spec, dataset), memory); !fits) return failure("OOM", fits.error());
  std::vector<DataFile> files;
  for (const auto& file : dataset.files) {
    auto cached = until_answered([&] { return cache_.get(registry_, file); });
    if (!cached) {
      return failure(cached.error().code == Code::kInternal ? "INTERNAL" : "DATA_ERROR", cached.error(), true);
    }
    files_.push_back(std::move(*cached));
    auto mapped = dataset::MappedFile::open(files_.back().path());
    if (!mapped) return failure("DATA_ERROR", mapped.error(), true);
    files.emplace_back(file.name, std::move(*mapped));
  }
  auto data = load_training_data(spec, dataset, files);
  if (!data) return failure("DATA_ERROR", data.error());
  return std::move(*data);
}

Attempt::Step<std::unique_ptr<Training>> Attempt::prepare() {
  const auto& job = order_.job;
  auto spec = keras::parse_job(job.document);
  if (!spec) return failure("USER_ERROR", spec.error());
  spec->seed = job.seed;  // the registry's word: given to jobs that name none
  if (auto few = check_class_count(*spec); !few) return failure("USER_ERROR", few.error());
  auto data = fetch_data(*spec);
  if (!data) return std::unexpected(std::move(data).error());

  const std::string identity =
      to_hex(job.spec_digest) + "/" + to_hex(job.dataset_digest) + std::format("/{}", job.seed);
  auto checkpoint = until_answered([&] { return load_checkpoint(registry_, job.id); });
  if (!checkpoint && checkpoint.error().code != Code::kDataLoss) return failure("INTERNAL", checkpoint.error(), true);
  if (!checkpoint) warn("the checkpoint is damaged, training starts anew: " + checkpoint.error().message);
  if (checkpoint && *checkpoint) {
    auto resumed = Training::resume(*spec, *data, **checkpoint, identity);
    if (resumed) {
      spdlog::info("attempt resumes job={} epoch={} step={} threads={}", job.id.text(), (*resumed)->epoch() + 1,
                   (*resumed)->step(), (*resumed)->threads());
      return std::move(*resumed);
    }
    if (resumed.error().code != Code::kDataLoss) return failure("USER_ERROR", resumed.error());
    warn("the checkpoint cannot be used, training starts anew: " + resumed.error().message);
  }
  const int threads = settings_.threads > 0 ? settings_.threads : usable_cores();
  auto started = Training::start(*spec, *data, threads, identity);
  if (!started) {
    return failure(started.error().code == Code::kInternal ? "INTERNAL" : "USER_ERROR", started.error());
  }
  return std::move(*started);
}

Observer Attempt::observer(Training& training, CheckpointWriter& writer, std::chrono::duration<double> every) {
  Observer observer;
  observer.keep_going = [this, &training, &writer, every, last = Clock::now(), first = true]() mutable {
    if (interrupted()) return false;
    const auto now = Clock::now();
    if (now - last >= checkpoint_pause(every, first, checkpoints_refused_) && !writer.busy()) {
      last = now;
      first = false;
      writer.submit(training.snapshot());
    }
    return true;
  };
  const auto counted = std::make_shared<std::int64_t>(0);
  const auto count_rows = [&training, counted] {
    const auto rows = training.rows_trained();
    metrics().rows.Increment(static_cast<double>(rows - std::exchange(*counted, rows)));
  };
  observer.on_progress = [this, count_rows](const Progress& progress) {
    count_rows();
    reporter_->add(event("progress", {}, progress));
  };
  observer.on_epoch = [this, count_rows](const Progress& progress, const std::string& note) {
    count_rows();
    std::string metrics;
    for (const auto& m : progress.metrics) metrics += std::format(" {}={:.6g}", m.name, m.value);
    spdlog::info("epoch done job={} epoch={} epochs={}{}", order_.job.id.text(), progress.epoch, progress.epochs,
                 metrics);
    reporter_->add(event("epoch", note, progress));
  };
  observer.on_warning = [this](const std::string& message) { warn(message); };
  return observer;
}

std::expected<AttemptEnd, Failure> Attempt::train() {
  auto prepared = prepare();
  if (!prepared) return std::unexpected(std::move(prepared).error());
  auto& training = **prepared;
  if (interrupted()) return interruption();

  const double own = training.checkpoint_seconds();
  const auto every = own > 0 ? std::chrono::duration<double>(own) : settings_.checkpoint_every;
  Ending ending;
  {
    CheckpointWriter writer(registry_, order_.lease, [this](const Result<void>& result) {
      checkpoints_refused_ = result ? 0 : checkpoints_refused_ + 1;
      if (result) return;  // the registry tells of it
      if (result.error().code == Code::kConflict) {
        reporter_->mark_lost();
      } else {
        spdlog::warn("checkpoint not taken job={} code={} reason={}", order_.job.id.text(),
                     code_name(result.error().code), log_value(result.error().message));
      }
    });
    ending = training.run(observer(training, writer, every));
    writer.wait();
  }
  if (ending.kind == Ending::Kind::kNotANumber) {
    return std::unexpected(Failure{"NAN_LOSS", std::move(ending.message), false});
  }
  if (ending.kind == Ending::Kind::kFinished) {
    auto published = publish(training);
    if (published || !interrupted()) return published;
  }
  const auto why = interruption();
  if (why == AttemptEnd::kReleased) {
    const auto saved = commit_checkpoint(registry_, order_.lease, training.snapshot());
    if (!saved) {
      spdlog::warn("last checkpoint not taken job={} code={} reason={}", order_.job.id.text(),
                   code_name(saved.error().code), log_value(saved.error().message));
    }
  }
  return why;
}

std::expected<AttemptEnd, Failure> Attempt::publish(Training& training) {
  auto metrics = training.final_logs();
  std::ranges::move(training.test(), std::back_inserter(metrics));
  const std::string module = training.save_module();
  const auto signature = training.signature();
  reporter_->flush(2s);  // what comes after the version would find the job ended
  // An upload does not outlive the registry, so a publish that finds it gone sends the bytes again. Should the one
  // before have been committed all the same, the registry knows that this lease has published.
  for (int failures = 1;; ++failures) {
    auto done = until_answered([&]() -> Result<msg::Versions> {
      const auto upload = open_upload(registry_);
      if (!upload) return std::unexpected(upload.error());
      UploadGuard guard(registry_, *upload);
      if (auto sent = upload_file(registry_, *upload, "model.pt", std::as_bytes(std::span(module))); !sent) {
        return std::unexpected(std::move(sent).error());
      }
      auto published = until_answered(
          [&] {
            return Caller::as<msg::Versions>(
                registry_.call_and_wait(msg::Publish{order_.lease, *upload, signature, metrics}, {}, kWrite));
          },
          not_yet);
      if (published) guard.taken();
      return published;
    });
    if (done) {
      if (!done->items.empty()) {
        spdlog::info("version published job={} model={} version={}", order_.job.id.text(), done->items.front().model,
                     done->items.front().number);
      }
      return AttemptEnd::kPublished;
    }
    if (done.error().code == Code::kConflict) {
      reporter_->mark_lost();
      return AttemptEnd::kLost;
    }
    if (interrupted()) return std::unexpected(Failure{"INTERNAL", done.error().message, true});
    if (done.error().code != Code::kNotFound) return failure("INTERNAL", done.error(), true);
    pause(pause_after(failures));
  }
}

}  // namespace slipway::trainer

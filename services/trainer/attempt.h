// One try at a job: data, resume, training, checkpoints, and a version or a reason in the end.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/keras/job_spec.h"
#include "lib/wire/caller.h"
#include "lib/wire/file_cache.h"
#include "services/trainer/attempt_settings.h"
#include "services/trainer/checkpoint_store.h"
#include "services/trainer/lease_reporter.h"

namespace slipway::trainer {

enum class AttemptEnd { kPublished, kFailed, kCancelled, kReleased, kLost };
[[nodiscard]] std::string_view attempt_end_name(AttemptEnd end);

// Why an attempt failed, as endAttempt tells it.
struct Failure {
  std::string reason;   // NAN_LOSS, DATA_ERROR, USER_ERROR, OOM, INTERNAL
  std::string message;  // for people
  bool retry = false;   // another try may do better
};

// Life: run() once, on the thread that trains. Threads: release() from any.
class Attempt {
 public:
  Attempt(Caller& registry, msg::RunJob order, AttemptSettings settings);

  // Blocks until the attempt has ended and the registry knows, or the lease is lost. While the registry is away it
  // goes on training, and waits at the end.
  [[nodiscard]] AttemptEnd run();

  // Checkpoints, gives the job back and ends run() soon.
  void release();

 private:
  template <class T>
  using Step = std::expected<T, Failure>;

  [[nodiscard]] std::expected<AttemptEnd, Failure> train();
  [[nodiscard]] Step<std::unique_ptr<Training>> prepare();
  [[nodiscard]] Step<TrainingData> fetch_data(const keras::JobSpec& spec);
  [[nodiscard]] Observer observer(Training& training, CheckpointWriter& writer, std::chrono::duration<double> every);
  [[nodiscard]] std::expected<AttemptEnd, Failure> publish(Training& training);
  void end(msg::Outcome outcome, const Failure& failure, std::chrono::milliseconds limit);

  [[nodiscard]] bool interrupted() const { return released_ || reporter_->lost() || reporter_->cancelled(); }
  [[nodiscard]] AttemptEnd interruption() const;
  void warn(const std::string& message);
  void pause(std::chrono::milliseconds time);

  // Asks until there is an answer other than one that `waits` for, or the attempt is interrupted.
  template <class Ask>
  auto until_answered(Ask ask, bool (*waits)(const Error&)) -> decltype(ask());
  // Other than "not now".
  template <class Ask>
  auto until_answered(Ask ask) -> decltype(ask());

  Caller& registry_;
  const msg::RunJob order_;
  const AttemptSettings settings_;
  const FileCache cache_;
  std::vector<CachedFile> files_;  // of the data set: mapped while this attempt trains
  std::unique_ptr<LeaseReporter> reporter_;
  std::atomic<bool> released_{false};
  std::atomic<int> checkpoints_refused_{0};  // in a row
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace slipway::trainer

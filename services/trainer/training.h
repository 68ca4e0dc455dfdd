// One job's training: network, optimizer, callbacks and position, driven step by step; can be stopped, saved and
// resumed between any two steps and then ends in the same weights bit for bit (README, "Resuming").
#pragma once

#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/callbacks.h"
#include "lib/keras/job_spec.h"
#include "schema/limits.h"
#include "schema/records.h"
#include "services/trainer/objective.h"
#include "services/trainer/optimizer.h"
#include "services/trainer/torchscript_compiler.h"
#include "services/trainer/training_data.h"

namespace slipway::trainer {

// What an attempt needs to go on. The tensors are copies.
struct Snapshot {
  std::string state;     // JSON: position, rate, callbacks, sums, history, threads
  NamedTensors tensors;  // "weights/...", "optimizer/...", "best/...", "rng"
};

// How a run ended.
struct Ending {
  enum class Kind : std::uint8_t { kFinished, kStopped, kNotANumber } kind = Kind::kFinished;
  std::string message;  // kNotANumber: where
};

// What a run tells, all on the thread that trains. Empty functions are not called.
struct Observer {
  std::function<bool()> keep_going;                                   // asked after every batch; false stops the run
  std::function<void(const Progress&)> on_progress;                   // a few times a second at most
  std::function<void(const Progress&, const std::string&)> on_epoch;  // with val_* and what callbacks did
  std::function<void(const std::string&)> on_warning;
};

// Threads: one at a time; while it runs it owns torch's default CPU generator. Torch's exceptions go through.
class Training {
 public:
  // The first `validation_split` end of `data` is held back as Keras does. `threads` is the most that one operator may
  // use; small models take one. `identity` says which job and data this is and must match on resume.
  // Errors: kInvalidArgument (data that does not fit, an empty training or validation set, more than kMaxClasses),
  // kInternal (no module).
  [[nodiscard]] static Result<std::unique_ptr<Training>> start(keras::JobSpec spec, const TrainingData& data,
                                                               int threads, std::string identity);

  // Errors: as start; kDataLoss (a snapshot that is damaged or of something else).
  [[nodiscard]] static Result<std::unique_ptr<Training>> resume(keras::JobSpec spec, const TrainingData& data,
                                                                const Snapshot& snapshot, std::string identity);

  // Trains until the last epoch, a callback's stop, or until `observer.keep_going` says false.
  [[nodiscard]] Ending run(const Observer& observer);

  // Between steps only: from an observer's function or when run() has returned.
  [[nodiscard]] Snapshot snapshot() const;

  [[nodiscard]] std::int64_t epoch() const { return epoch_; }  // complete epochs
  [[nodiscard]] std::int64_t step() const { return step_; }    // batches of the next one done
  [[nodiscard]] int threads() const { return threads_; }
  [[nodiscard]] std::int64_t rows_trained() const { return rows_trained_; }             // by this object
  [[nodiscard]] double checkpoint_seconds() const { return spec_.checkpoint_seconds; }  // the job's wish; 0: none
  // Logs of each complete epoch.
  [[nodiscard]] const std::vector<std::vector<Metric>>& history() const { return history_; }
  [[nodiscard]] const Network& network() const { return network_; }

  // Logs of the epoch whose weights the training ended with.
  [[nodiscard]] std::vector<Metric> final_logs() const;

  // "test_loss" and so on over the test set; nothing without one.
  [[nodiscard]] std::vector<Metric> test();

  // The module as a TorchScript archive, in evaluation mode.
  [[nodiscard]] std::string save_module();

  // What the module takes and gives.
  [[nodiscard]] Signature signature() const;

 private:
  using Clock = std::chrono::steady_clock;

  Training(keras::JobSpec spec, std::string identity);
  [[nodiscard]] Result<void> prepare(const TrainingData& data);
  [[nodiscard]] Result<void> restore(const Snapshot& snapshot);

  [[nodiscard]] std::int64_t steps_per_epoch() const;
  [[nodiscard]] torch::Tensor permutation() const;
  double train_batch(const torch::Tensor& permutation);
  // False when stopped half-way.
  bool evaluate(const torch::Tensor& x, const torch::Tensor& y, RunningMeans& means, const Observer* observer);
  [[nodiscard]] bool weights_are_finite() const;
  // Ends the epoch: validation, callbacks, history. False when stopped half-way.
  bool end_epoch(const Observer& observer);
  [[nodiscard]] Progress progress(std::vector<Metric> metrics) const;
  void tick(const Observer& observer);
  void keep_best();

  keras::JobSpec spec_;
  const std::string identity_;
  int threads_ = 1;
  torch::Tensor x_, y_, val_x_, val_y_, test_x_, test_y_;
  std::vector<std::string> classes_;
  Network network_;
  std::unique_ptr<torch::jit::Method> logits_;
  std::unique_ptr<Objective> objective_;
  std::unique_ptr<Optimizer> optimizer_;

  // Position and all else that a snapshot holds beside tensors.
  std::unique_ptr<keras::CallbackState> callbacks_;
  std::int64_t epoch_ = 0;
  std::int64_t step_ = 0;
  double learning_rate_ = 0;
  bool done_ = false;
  RunningMeans means_;
  std::vector<std::vector<Metric>> history_;
  torch::Tensor rng_;  // state of torch's default generator while not running
  bool running_ = false;
  NamedTensors best_;  // copies of all weights at the best epoch, when a callback restores them

  // Pace, of this process only.
  Clock::time_point last_report_{};
  std::int64_t rows_trained_ = 0;
  std::int64_t rows_since_report_ = 0;
  double rows_per_second_ = 0;
};

// Makes the calling thread, and the team that torch will start for it, treat denormal numbers as zero. Part of what
// makes runs equal bit for bit: call it before the thread's first use of torch.
void settle_training_thread();

// The number of threads worth using for batches of this size: at most `limit`, one when a step is too small to share.
[[nodiscard]] int worthwhile_threads(const keras::Architecture& architecture, std::int64_t batch_rows, int limit);

// The most outputs of a classifier: their names travel in its signature.
inline constexpr std::int64_t kMaxClasses = kMaxListItems;

// Errors: kInvalidArgument (more).
[[nodiscard]] Result<void> check_class_count(const keras::JobSpec& spec);

}  // namespace slipway::trainer

// What Keras' callbacks decide at the end of a batch and of an epoch. No clock, no weights and no I/O in here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "lib/keras/job_spec.h"
#include "schema/records.h"

namespace slipway::keras {

struct EpochDecision {
  double learning_rate = 0;           // for the next epoch
  bool stop = false;                  // train no more
  std::string reason;                 // why, for people; empty unless `stop`
  bool is_best = false;               // these weights are the ones to publish in the end: remember them
  std::vector<std::string> warnings;  // a monitored value that was not in the logs
};

// The callbacks of one job in their order, with what they remember. A resumed job restores it and goes on exactly.
// Values are compared as doubles, as Keras 2 and Keras 3 on NumPy do. Threads: not thread-safe, owned by the step loop.
class CallbackState {
 public:
  explicit CallbackState(std::vector<Callback> callbacks);

  // `epoch` counts from 0; `logs` as Keras names them ("loss", "val_accuracy"); `learning_rate` as used in the epoch.
  [[nodiscard]] EpochDecision on_epoch_end(std::int64_t epoch, const std::vector<Metric>& logs, double learning_rate);

  // Whether training must end because of this loss: it is NaN or infinite and the job has TerminateOnNaN.
  [[nodiscard]] bool on_batch_loss(double loss) const;

  // Whether the job publishes remembered weights (those of the last `is_best`) and not its last ones: an EarlyStopping
  // with restore_best_weights has seen its metric. True or not, is_best says when to remember.
  [[nodiscard]] bool restores_best_weights() const;
  // The epoch, from 0, of the weights that are to be restored; nullopt: none.
  [[nodiscard]] std::optional<std::int64_t> best_epoch() const;
  // Whether an epoch has already ended in `stop`: a job resumed from then must not train on.
  [[nodiscard]] bool stopped() const { return stopped_; }

  // All that is remembered, as JSON of a few hundred bytes.
  [[nodiscard]] std::string save() const;
  // Takes up what save() of a state with the same callbacks gave. Errors: kDataLoss (not that); nothing has changed
  // then.
  [[nodiscard]] Result<void> restore(std::string_view saved);

 private:
  struct Memory {
    std::optional<double> best;
    std::int64_t wait = 0;
    std::int64_t cooldown = 0;               // ReduceLROnPlateau: epochs left
    std::optional<std::int64_t> best_epoch;  // EarlyStopping: of the weights it would restore
  };

  void reduce(const ReduceLROnPlateau& callback, Memory& memory, std::vector<Metric>& logs,
              EpochDecision& decision) const;
  void stop_early(const EarlyStopping& callback, Memory& memory, std::int64_t epoch, const std::vector<Metric>& logs,
                  bool restores, EpochDecision& decision) const;
  // The place of the callback whose weights count in the end: Keras lets each restore its own, the last one wins.
  [[nodiscard]] std::optional<std::size_t> restorer() const;

  std::vector<Callback> callbacks_;
  std::vector<Memory> memories_;  // one for each callback
  bool stopped_ = false;
};

}  // namespace slipway::keras

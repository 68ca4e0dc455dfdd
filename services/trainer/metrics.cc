#include "services/trainer/metrics.h"

namespace slipway::trainer {
namespace {

prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(obs::metrics());
}

}  // namespace

Metrics& metrics() {
  static Metrics made{
      .busy = prometheus::BuildGauge()
                  .Name("slipway_trainer_busy_jobs")
                  .Help("Jobs running here now")
                  .Register(obs::metrics())
                  .Add({}),
      .rows = counter("slipway_trainer_rows_total", "Rows trained on").Add({}),
      .attempts = counter("slipway_trainer_attempts_total", "Attempts ended, by outcome"),
      .checkpoints = counter("slipway_trainer_checkpoints_total", "Checkpoints sent to the registry, by result"),
      .checkpoint_time = prometheus::BuildHistogram()
                             .Name("slipway_trainer_checkpoint_seconds")
                             .Help("Time to write and send a checkpoint")
                             .Register(obs::metrics())
                             .Add({}, obs::latency_buckets()),
      .failed_reports =
          counter("slipway_trainer_failed_reports_total", "Reports that the registry did not take").Add({}),
  };
  return made;
}

}  // namespace slipway::trainer

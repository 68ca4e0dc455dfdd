#include "services/inferencer/metrics.h"

namespace slipway::inferencer {
namespace {

prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(obs::metrics());
}
prometheus::Gauge& gauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(obs::metrics()).Add({});
}
prometheus::Histogram& histogram(const char* name, const char* help,
                                 const prometheus::Histogram::BucketBoundaries& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(obs::metrics()).Add({}, buckets);
}

}  // namespace

prometheus::Counter& Metrics::released(Batcher::Reason reason) const {
  switch (reason) {
    case Batcher::Reason::kFull:
      return released_full;
    case Batcher::Reason::kDue:
      return released_due;
    case Batcher::Reason::kFree:
      break;
  }
  return released_free;
}

Metrics& metrics() {
  static Metrics made = [] {
    auto& requests = counter("slipway_inferencer_requests_total", "Requests answered, by result");
    auto& released = counter("slipway_inferencer_batch_release_total", "Batches run, by why they were released");
    const prometheus::Histogram::BucketBoundaries rows{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
    return Metrics{
        .requests = requests,
        .requests_ok = requests.Add({{"code", "ok"}}),
        .rows = counter("slipway_inferencer_rows_total", "Rows answered").Add({}),
        .batch_rows = histogram("slipway_inferencer_batch_rows", "Rows in a batch", rows),
        .released_free = released.Add({{"reason", "free"}}),
        .released_full = released.Add({{"reason", "full"}}),
        .released_due = released.Add({{"reason", "due"}}),
        .queue_wait = histogram("slipway_inferencer_queue_wait_seconds", "Time a request waited for its batch",
                                obs::latency_buckets()),
        .compute =
            histogram("slipway_inferencer_compute_seconds", "Time of one batch's forward pass", obs::latency_buckets()),
        .queued_rows = gauge("slipway_inferencer_queued_rows", "Rows waiting now"),
        .loaded = gauge("slipway_inferencer_loaded_versions", "Versions ready to run"),
        .model_bytes = gauge("slipway_inferencer_model_memory_bytes",
                             "Memory of the versions ready to run, and of what they keep"),
        .loads = counter("slipway_inferencer_loads_total", "Versions loaded, by result"),
        .load_time = histogram("slipway_inferencer_load_seconds", "Time to fetch, load and warm up a version",
                               obs::latency_buckets()),
        .inspections = counter("slipway_inferencer_inspections_total", "Uploaded files inspected, by result"),
    };
  }();
  return made;
}

}  // namespace slipway::inferencer

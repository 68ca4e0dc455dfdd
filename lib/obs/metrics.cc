#include "lib/obs/metrics.h"

#include "lib/base/readings.h"

namespace slipway::obs {

prometheus::Registry& metrics() {
  static prometheus::Registry registry(prometheus::Registry::InsertBehavior::Merge);
  return registry;
}

std::vector<prometheus::MetricFamily> collect() {
  std::vector<prometheus::MetricFamily> families = metrics().Collect();
  for (const Reading::Value& reading : Reading::all()) {
    const bool counter = reading.name.ends_with("_total");
    prometheus::ClientMetric metric;
    metric.counter.value = metric.gauge.value = reading.value;
    families.push_back({.name = reading.name,
                        .help = reading.help,
                        .type = counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge,
                        .metric = {metric}});
  }
  return families;
}

prometheus::Histogram::BucketBoundaries latency_buckets() {
  return {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30};
}

}  // namespace slipway::obs

#include "lib/obs/metrics.h"

namespace slipway::obs {

prometheus::Registry& metrics() {
  static prometheus::Registry registry(prometheus::Registry::InsertBehavior::Merge);
  return registry;
}

prometheus::Histogram::BucketBoundaries latency_buckets() {
  return {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30};
}

}  // namespace slipway::obs

// The process's metrics, in Prometheus' terms: `slipway_<service>_<what>_<unit>`, counters end in `_total`.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <vector>

namespace slipway::obs {

// The one registry of this process; families are added with prometheus::BuildCounter() and its siblings.
prometheus::Registry& metrics();

// What the registry holds, and the readings of lib/base/readings.h.
[[nodiscard]] std::vector<prometheus::MetricFamily> collect();

// Latency buckets in seconds, 100 us to 30 s.
[[nodiscard]] prometheus::Histogram::BucketBoundaries latency_buckets();

}  // namespace slipway::obs

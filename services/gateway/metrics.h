// What the gateway counts.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace slipway::gateway {

// Life: the process. Threads: any.
class Metrics {
 public:
  Metrics();

  // One counter and one histogram of a route, found once and kept. `route` is a pattern, never a path.
  struct RouteMetrics {
    prometheus::Histogram* seconds = nullptr;
    prometheus::Counter* by_class[6] = {};  // of statuses 1xx to 5xx; [0] is unused
  };
  const RouteMetrics& of(const std::string& method, const std::string& route);

  prometheus::Gauge& inflight;
  prometheus::Gauge& connections;
  prometheus::Counter& connections_refused;
  prometheus::Counter& connections_displaced;
  prometheus::Gauge& connection_buffers;
  prometheus::Counter& origins_refused;
  prometheus::Counter& requests_refused;  // by the request gate
  prometheus::Gauge& queued;
  prometheus::Gauge& outstanding;  // queued, and at inferencers
  prometheus::Counter& shed;
  prometheus::Counter& retries;
  prometheus::Counter& jobs_offered;
  prometheus::Counter& hangups;
  prometheus::Counter& workers_lost;
  prometheus::Counter& handler_failures;
  prometheus::Gauge& registry_up;
  prometheus::Gauge& trainers;
  prometheus::Gauge& inferencers;
  prometheus::Gauge& uploads;
  prometheus::Gauge& event_streams;

 private:
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  std::mutex mutex_;
  std::map<std::string, RouteMetrics> routes_;
};

Metrics& metrics();

}  // namespace slipway::gateway

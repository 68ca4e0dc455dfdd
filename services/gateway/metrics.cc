#include "services/gateway/metrics.h"

#include "lib/obs/metrics.h"

namespace slipway::gateway {
namespace {

prometheus::Gauge& gauge(const char* name, const char* help, const prometheus::Labels& labels = {}) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(obs::metrics()).Add(labels);
}

prometheus::Counter& counter(const char* name, const char* help, const prometheus::Labels& labels = {}) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(obs::metrics()).Add(labels);
}

}  // namespace

Metrics::Metrics()
    : inflight(gauge("slipway_gateway_inflight_requests", "Requests being handled")),
      connections(gauge("slipway_gateway_connections", "Open client connections")),
      connections_refused(counter("slipway_gateway_connections_refused_total", "Connections over the cap")),
      connections_displaced(
          counter("slipway_gateway_connections_displaced_total", "Idle connections closed to admit others")),
      connection_buffers(gauge("slipway_gateway_connection_buffer_bytes", "Read buffers of all connections")),
      origins_refused(counter("slipway_gateway_foreign_requests_total",
                              "Requests refused for their Host, Origin or Sec-Fetch-Site field")),
      requests_refused(counter("slipway_gateway_malformed_requests_total", "Requests the request gate refused")),
      queued(gauge("slipway_gateway_queued_requests", "Requests waiting for an inferencer's credit")),
      outstanding(gauge("slipway_gateway_outstanding_predictions", "Predictions that wait or are at an inferencer")),
      shed(counter("slipway_gateway_shed_requests_total", "Requests refused because the queue was full")),
      retries(counter("slipway_gateway_retries_total", "Requests sent once more to another inferencer")),
      jobs_offered(
          counter("slipway_gateway_jobs_offered_total", "Offers of waiting jobs that were sent to idle trainers")),
      hangups(counter("slipway_gateway_hangups_total", "Requests given up because the client hung up")),
      workers_lost(counter("slipway_gateway_workers_lost_total",
                           "Workers that went silent or were replaced without having said that they go")),
      handler_failures(counter("slipway_gateway_handler_failures_total", "Handlers that ended in an exception")),
      registry_up(gauge("slipway_gateway_registry_up", "Whether the registry gave a sign of life in the last 5 s")),
      trainers(gauge("slipway_gateway_workers", "Workers connected", {{"role", "trainer"}})),
      inferencers(gauge("slipway_gateway_workers", "Workers connected", {{"role", "inferencer"}})),
      uploads(gauge("slipway_gateway_uploads", "Uploads under way")),
      event_streams(gauge("slipway_gateway_event_streams", "Server-sent event streams open")),
      requests_(prometheus::BuildCounter()
                    .Name("slipway_gateway_requests_total")
                    .Help("Requests answered, by route and class of status")
                    .Register(obs::metrics())),
      seconds_(prometheus::BuildHistogram()
                   .Name("slipway_gateway_request_seconds")
                   .Help("Time from the end of a request's header to the end of its answer")
                   .Register(obs::metrics())) {}

const Metrics::RouteMetrics& Metrics::of(const std::string& method, const std::string& route) {
  const std::lock_guard lock(mutex_);
  auto [found, added] = routes_.try_emplace(method + " " + route);
  if (added) {
    found->second.seconds = &seconds_.Add({{"method", method}, {"route", route}}, obs::latency_buckets());
    for (int kind = 1; kind < 6; ++kind) {
      found->second.by_class[kind] =
          &requests_.Add({{"method", method}, {"route", route}, {"code", std::to_string(kind) + "xx"}});
    }
  }
  return found->second;
}

Metrics& metrics() {
  static Metrics all;
  return all;
}

}  // namespace slipway::gateway

// slipway-gateway: HTTP in, messages out.
#include <spdlog/spdlog.h>

#include <optional>
#include <thread>

#include "lib/base/endpoint.h"
#include "lib/base/limit_watch.h"
#include "lib/base/log.h"
#include "lib/base/options.h"
#include "lib/base/service.h"
#include "lib/obs/health_server.h"
#include "services/gateway/cache_warmer.h"
#include "services/gateway/http_server.h"
#include "services/gateway/memory_budget.h"
#include "services/gateway/metrics.h"
#include "services/gateway/own_api.h"

int main(int argc, char** argv) {
  using namespace slipway;
  using namespace slipway::gateway;
  prepare_process();
  ServiceSettings service;
  Settings settings;
  Options options("Speaks HTTP to clients, hands their work to trainers and inferencers.", "slipway-gateway");
  service.add_to(options);
  options.add("http-port", settings.http_port, "Port of the HTTP API; 0: any free one")->check(CLI::Range(0, 65535));
  options.add("bus-port", settings.bus_port, "Port that workers dial; 0: any free one")->check(CLI::Range(0, 65535));
  options.add("registry", settings.registry, "Registry's port for calls, host:port");
  options.add("registry-events", settings.registry_events, "Registry's port for events, host:port");
  options.add("max-body-bytes", settings.max_body_bytes, "Largest JSON body");
  settings.max_buffered_bytes = default_budget_bytes(process_limits());
  const auto* buffered_bytes =
      options
          .add("max-buffered-bytes", settings.max_buffered_bytes,
               "Requests and answers in memory at once, in all, before 503; by default half of what the cgroup allows, "
               "1 GiB where it allows all")
          ->check(CLI::PositiveNumber);
  options.add("max-upload-bytes", settings.max_upload_bytes, "Largest streamed upload");
  options
      .add("http-threads", settings.http_threads, "Threads that serve HTTP; 0: one per core at the start, at most 4")
      ->check(CLI::Range(0, 256));
  options.add("max-connections", settings.max_connections, "Client connections open at once")
      ->check(CLI::PositiveNumber);
  options.add("header-timeout-ms", settings.header_timeout_ms, "Time for a request's header, in all")
      ->check(CLI::PositiveNumber);
  options.add("idle-timeout-ms", settings.idle_timeout_ms, "Time between two requests of a connection")
      ->check(CLI::PositiveNumber);
  options.add("body-grace-ms", settings.body_grace_ms, "Time by which a body may fall behind 8 KiB/s")
      ->check(CLI::PositiveNumber);
  options.add("write-timeout-ms", settings.write_timeout_ms, "Time for a client to take 256 KiB of an answer")
      ->check(CLI::PositiveNumber);
  options
      .add("predict-deadline-ms", settings.predict_deadline_ms,
           "Time for a prediction; X-Request-Timeout-Ms may shorten it")
      ->check(CLI::PositiveNumber);
  options.add("registry-deadline-ms", settings.registry_deadline_ms, "Time for a call to the registry")
      ->check(CLI::PositiveNumber);
  options
      .add("load-deadline-ms", settings.load_deadline_ms, "Time for the inferencers to load a model that was asked for")
      ->check(CLI::PositiveNumber);
  options
      .add("max-queued-requests", settings.max_queued_requests, "Predictions that wait for an inferencer before 503")
      ->check(CLI::NonNegativeNumber);
  options.add("nonfinite-inputs", settings.nonfinite_inputs,
              "Take NaN and Infinity as bare tokens in /v1 and /v2, as TensorFlow Serving and Triton do");
  options.add("max-tensor-bytes", settings.max_tensor_bytes, "Most bytes of a prediction's inputs, and of its outputs")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{kMaxMessageBytes}));
  options.add("allowed-hosts", settings.allowed_hosts,
              "Hosts that requests may name, beside loopback ones; *.example.org: all below; empty: on loopback no "
              "others, elsewhere any");
  options.add("allowed-origins", settings.allowed_origins,
              "Web pages of other hosts that may use the API, as https://host[:port]");
  options.add("drain-seconds", settings.drain_seconds, "Time to finish open requests at SIGTERM")
      ->check(CLI::NonNegativeNumber);
  options.add("drain-grace-ms", settings.drain_grace_ms, "Time to go on accepting at SIGTERM, once not ready")
      ->check(CLI::NonNegativeNumber);
  options.add(
      "ready-alone-after-seconds", settings.ready_alone_after_seconds,
      "Time from the start after which a gateway that knows no inferencer is ready all the same; negative: never");
  if (const auto code = options.parse(argc, argv)) return *code;
  if (auto started = start_logging("gateway", service.log_format, service.log_level); !started)
    return exit_with(started.error());

  metrics();
  Bus bus({.names_over_ipv6 = is_ipv6(service.listen_address)});
  Caller caller(bus, settings.registry, service.cluster_secret);
  RegistryClient registry(caller, std::chrono::milliseconds(settings.registry_deadline_ms));
  RegistryCache cache(registry);
  EventHub events;
  WorkerHub workers(bus, caller, cache, events, settings, service.release_id, service.cluster_secret);
  if (auto bound = workers.start(endpoint(service.listen_address, settings.bus_port)); !bound)
    return exit_with(bound.error());
  if (auto subscribed = workers.subscribe(settings.registry_events); !subscribed) return exit_with(subscribed.error());

  std::atomic<bool> draining = false;
  // Where pods scale to zero a gateway without an inferencer still takes jobs, data and uploads.
  const auto is_ready_alone = [&, started = std::chrono::steady_clock::now()] {
    const std::chrono::duration<double> after(settings.ready_alone_after_seconds);
    return after.count() >= 0 && std::chrono::steady_clock::now() - started >= after;
  };
  CacheWarmer models(cache);
  const auto not_ready = [&]() -> std::string {
    if (draining) return "draining";
    if (!models.done()) return "the registry's models are not known yet";
    if (workers.inferencers() > 0 || is_ready_alone()) return "";
    return "no inferencer takes predictions";
  };
  Services services{.settings = settings,
                    .registry = registry,
                    .cache = cache,
                    .workers = workers,
                    .events = events,
                    .not_ready = not_ready};
  RouteTable routes;
  add_all_routes(routes, services);
  const auto signals = [] {
    const auto whole = [](const prometheus::Gauge& gauge) { return static_cast<std::int64_t>(gauge.Value()); };
    const Metrics& now = metrics();
    return std::map<std::string, std::map<std::string, std::int64_t>>{
        {"predictions", {{"outstanding", whole(now.outstanding)}, {"queued", whole(now.queued)}}},
        {"requests", {{"inflight", whole(now.inflight)}}}};
  };
  auto health = obs::HealthServer::start(service.listen_address, service.metrics_port, not_ready, signals);
  if (!health) return exit_with(health.error());
  auto http = HttpServer::start(service.listen_address, settings.http_port, settings, routes);
  if (!http) return exit_with(http.error());
  if (auto written = announce(service.announce,
                              {{"http", (*http)->port()}, {"bus", workers.port()}, {"metrics", (*health)->port()}});
      !written) {
    return exit_with(written.error());
  }
  std::optional<LimitWatch> watch(std::in_place, [&](const ProcessLimits& now) {
    if (buffered_bytes->count() > 0) return;
    (*http)->set_max_buffered_bytes(default_budget_bytes(now));
    spdlog::info("resized max_buffered_bytes={}", default_budget_bytes(now));
  });
  spdlog::info("gateway started address={} http_port={} bus_port={} metrics_port={}", service.listen_address,
               (*http)->port(), workers.port(), (*health)->port());

  models.start();
  const int signal = wait_for_stop_signal();
  spdlog::info("stopping signal={}", signal);
  draining = true;
  workers.stop_offers();
  (*http)->leave();
  std::this_thread::sleep_for(std::chrono::milliseconds(settings.drain_grace_ms));
  events.close();
  const bool finished =
      (*http)->drain(std::chrono::milliseconds(static_cast<std::int64_t>(settings.drain_seconds * 1000)));
  if (!finished) spdlog::warn("requests cut off after drain_seconds={}", settings.drain_seconds);
  // Every wait for an answer ends here, while the threads that resume it run; what was cut off is told so. Parts of an
  // upload whose client has gone may be under way even when all requests have finished.
  caller.close();
  workers.close();
  if (!finished) (*http)->drain(std::chrono::seconds(1));
  watch.reset();  // it speaks to the server
  http->reset();
  health->reset();
  bus.stop(std::chrono::milliseconds(200));  // cancels still go out
  spdlog::info("stopped");
  return 0;
}

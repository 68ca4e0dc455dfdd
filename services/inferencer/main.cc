// slipway-inferencer: keeps model versions in memory and answers predictions.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "lib/base/endpoint.h"
#include "lib/base/limit_watch.h"
#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "lib/base/options.h"
#include "lib/base/service.h"
#include "lib/obs/health_server.h"
#include "lib/torch_runtime/memory.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/inspect_child.h"
#include "services/inferencer/server.h"

namespace {
constexpr std::chrono::seconds kStopLimit{5};  // for what runs when the time to drain is over
}

int main(int argc, char** argv) {
  using namespace slipway;
  using namespace slipway::inferencer;
  if (argc > 1 && std::string_view(argv[1]) == "inspect-file") return inspect_child_main(argc - 2, argv + 2);

  settle_malloc();
  prepare_process();
  ServiceSettings settings;
  Server::Options server_options{.gateways = {"127.0.0.1:7070"},
                                 .registry = "127.0.0.1:7071",
                                 .registry_events = "127.0.0.1:7072",
                                 .release = {},
                                 .program = {},
                                 .engine = {},
                                 .store = {},
                                 .inspect = {}};
  std::string cache_dir = "cache/inferencer";
  // One: on a shared machine a second thread of a team mostly spins for the first; instances share the cores better.
  int threads = 1;
  std::int64_t max_wait_us = 0;
  double drain_seconds = 20;
  std::int64_t inspect_seconds = 60;
  std::int64_t stuck_seconds = 30;
  auto& engine = server_options.engine;
  auto& limits = server_options.store.limits;
  auto& model_limits = server_options.store.model_limits;
  const MemoryPlan plan = plan_memory(process_limits().memory_bytes);
  limits.max_bytes = plan.model_bytes;
  model_limits.run_bytes = plan.run_bytes;
  engine.max_queued_bytes = plan.queued_bytes;
  server_options.inspect.memory_bytes = plan.inspect_bytes;

  Options options("Loads model versions and answers predictions.", "slipway-inferencer");
  settings.add_to(options);
  options.add("gateways", server_options.gateways,
              "Gateways to serve: host:port, where a name stands for all its addresses, or @FILE with one a line");
  options.add("registry", server_options.registry, "Registry's port for calls, host:port");
  options.add("registry-events", server_options.registry_events, "Registry's port for events, host:port");
  options.add("cache-dir", cache_dir, "Folder for downloaded model files");
  options
      .add("cache-bytes", server_options.store.cache_bytes,
           "Bytes of model files in it; beyond that the least recently used ones leave that no loaded version is from")
      ->check(CLI::PositiveNumber);
  options
      .add("threads", threads,
           "Threads that one forward pass may use; 0: the cores of the cgroup's CPU quota divided by instances, also "
           "when it changes; one without a quota")
      ->check(CLI::NonNegativeNumber);
  options.add("instances", engine.instances, "Batches that may run at once")->check(CLI::Range(1, 1024));
  options.add("max-batch-rows", engine.limits.max_rows, "Rows in one batch")->check(CLI::PositiveNumber);
  options.add("max-queued-rows", engine.limits.max_queued_rows, "Rows waiting per version before requests are refused")
      ->check(CLI::PositiveNumber);
  const auto* queued_bytes = options.add("max-queued-bytes", engine.max_queued_bytes,
                                         "Bytes of inputs waiting in all before requests are refused; by default an "
                                         "eighth of what there is, at most 1 GiB");
  options
      .add("max-queued-requests", server_options.max_requests, "Requests that the gateways may have outstanding here")
      ->check(CLI::PositiveNumber);
  options.add("max-wait-us", max_wait_us, "Time a short batch waits for more rows, in microseconds; 0: not at all")
      ->check(CLI::Range(0, 60'000'000));
  options
      .add("max-loaded-versions", limits.max_loaded,
           "Versions in memory; the least recently used ones leave, and come back when asked for")
      ->check(CLI::PositiveNumber);
  const auto* model_bytes =
      options
          .add("max-model-memory-bytes", limits.max_bytes,
               "Memory of all loaded versions, the same; by default half of what this machine or its cgroup has")
          ->check(CLI::PositiveNumber);
  const auto* run_bytes =
      options
          .add("max-run-memory-bytes", model_limits.run_bytes,
               "Memory of one version's batches, of answers on their way and of what it keeps between them; by default "
               "a quarter of what there is, at least 256 MiB")
          ->check(CLI::PositiveNumber);
  options.add("max-tensor-bytes", model_limits.tensor_bytes, "Bytes of one output of one request")
      ->check(CLI::PositiveNumber);
  options.add("inspect-seconds", inspect_seconds, "Time an uploaded file has to load and run")
      ->check(CLI::Range(1, 3600));
  options
      .add("stuck-seconds", stuck_seconds,
           "Time a batch may run on after its deadline; then the process ends, to be started again")
      ->check(CLI::Range(1, 86400));
  options.add("drain-seconds", drain_seconds, "Time to finish what is queued at SIGTERM")
      ->check(CLI::NonNegativeNumber);
  if (const auto code = options.parse(argc, argv)) return *code;
  if (auto started = start_logging("inferencer", settings.log_format, settings.log_level); !started)
    return exit_with(started.error());
  engine.limits.max_wait = std::chrono::microseconds(max_wait_us);
  engine.stuck_after = std::chrono::seconds(stuck_seconds);
  model_limits.load_bytes = limits.max_bytes;
  server_options.release = settings.release_id;
  server_options.cluster_secret = settings.cluster_secret;
  server_options.names_over_ipv6 = is_ipv6(settings.listen_address);
  server_options.store.cache_dir = std::filesystem::absolute(cache_dir);
  server_options.store.max_batch_rows = engine.limits.max_rows;
  server_options.inspect.time = std::chrono::seconds(inspect_seconds);
  std::error_code failed;
  server_options.program = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (failed) return exit_with({.code = Code::kInternal, .message = "cannot find this program's own file", .path = {}});

  // Each compute thread has a team of its own.
  const auto team = [threads, instances = engine.instances](const ProcessLimits& now) {
    if (threads > 0 || !now.cores_are_own) return std::max(1, threads);  // what is shared is not for one team
    return std::max(1, now.whole_cores() / instances);
  };
  start_torch(team(process_limits()));
  log_blas();

  // What was set by hand stays; the rest follows what there is.
  const auto plan_for = [=, model = limits.max_bytes, run = model_limits.run_bytes,
                         queued = engine.max_queued_bytes](const ProcessLimits& now) {
    MemoryPlan next = plan_memory(now.memory_bytes);
    if (model_bytes->count() > 0) next.model_bytes = model;
    if (run_bytes->count() > 0) next.run_bytes = run;
    if (queued_bytes->count() > 0) next.queued_bytes = queued;
    return next;
  };
  auto server = Server::start(std::move(server_options));
  if (!server) return exit_with(server.error());
  const LimitWatch watch([&](const ProcessLimits& now) {
    set_torch_threads(team(now));
    (*server)->set_memory(plan_for(now));
    spdlog::info("resized threads={} model_memory_bytes={}", team(now), plan_for(now).model_bytes);
  });
  auto health = obs::HealthServer::start(settings.listen_address, settings.metrics_port,
                                         [&server] { return (*server)->not_ready(); });
  if (!health) return exit_with(health.error());
  if (auto written = announce(settings.announce, {{"metrics", (*health)->port()}}); !written)
    return exit_with(written.error());
  spdlog::info("inferencer started metrics_port={} instances={} threads={} model_memory_bytes={}", (*health)->port(),
               engine.instances, team(watch.now()), plan_for(watch.now()).model_bytes);

  const int signal = wait_for_stop_signal();
  spdlog::info("stopping signal={}", signal);
  (*server)->drain(std::chrono::milliseconds(static_cast<std::int64_t>(drain_seconds * 1000)));
  // A model that runs on cannot be stopped, and its thread cannot be joined.
  const StopLimit limit(kStopLimit);
  health->reset();
  (*server)->stop();
  spdlog::info("stopped");
  return 0;
}

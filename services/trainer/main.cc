// slipway-trainer: runs training jobs, one at a time.
#include <spdlog/spdlog.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "lib/base/endpoint.h"
#include "lib/base/limit_watch.h"
#include "lib/base/log.h"
#include "lib/base/options.h"
#include "lib/base/service.h"
#include "lib/obs/health_server.h"
#include "lib/torch_runtime/memory.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/trainer_server.h"

int main(int argc, char** argv) {
  using namespace slipway;
  using namespace slipway::trainer;
  settle_malloc();
  prepare_process();
  ServiceSettings settings;
  TrainerServer::Options server_options;
  server_options.gateways = {"127.0.0.1:7070"};
  server_options.registry = "127.0.0.1:7071";
  std::string work_dir = "work/trainer";
  int threads = 0;
  double checkpoint_seconds = 30;
  double drain_seconds = 25;
  std::uint64_t memory_mib = 0;

  Options options("Runs training jobs, one at a time.", "slipway-trainer");
  settings.add_to(options);
  options.add("gateways", server_options.gateways,
              "Gateways to serve: host:port, where a name stands for all its addresses, or @FILE with one a line");
  options.add("registry", server_options.registry, "Registry's port for calls, host:port");
  options.add("work-dir", work_dir, "Folder for downloaded data sets");
  options.add("cache-bytes", server_options.attempt.cache_bytes,
              "Bytes of downloaded data sets to keep; those not used for the longest time go first");
  options
      .add("threads", threads,
           "Threads that one operator may use; 0: cores when a job begins, which keeps them. Small models use one")
      ->check(CLI::Range(0, 1024));
  options.add("checkpoint-seconds", checkpoint_seconds, "Time between checkpoints of jobs that name none")
      ->check(CLI::Range(0.1, 86400.0));
  options.add("memory-mib", memory_mib, "Memory that a job may take, in MiB; 0: what is left when it begins");
  options.add("drain-seconds", drain_seconds, "Time to checkpoint and give a job back at SIGTERM")
      ->check(CLI::NonNegativeNumber);
  if (const auto code = options.parse(argc, argv)) return *code;
  if (auto started = start_logging("trainer", settings.log_format, settings.log_level); !started) {
    return exit_with(started.error());
  }
  server_options.release = settings.release_id;
  server_options.cluster_secret = settings.cluster_secret;
  server_options.names_over_ipv6 = is_ipv6(settings.listen_address);
  server_options.attempt.work_dir = std::filesystem::absolute(work_dir);
  server_options.attempt.threads = threads;
  server_options.attempt.checkpoint_every = std::chrono::duration<double>(checkpoint_seconds);
  server_options.attempt.memory_bytes = memory_mib << 20;
  start_torch(threads);
  log_blas();

  // Each attempt looks for itself what there is when it begins.
  const LimitWatch watch;
  auto server = TrainerServer::start(std::move(server_options));
  if (!server) return exit_with(server.error());
  auto health = obs::HealthServer::start(settings.listen_address, settings.metrics_port,
                                         [&server] { return (*server)->not_ready(); });
  if (!health) return exit_with(health.error());
  if (auto written = announce(settings.announce, {{"metrics", (*health)->port()}}); !written) {
    return exit_with(written.error());
  }
  spdlog::info("trainer started metrics_port={} threads={}", (*health)->port(),
               threads > 0 ? threads : watch.now().whole_cores());

  const int signal = wait_for_stop_signal();
  spdlog::info("stopping signal={}", signal);
  const bool drained = (*server)->drain(std::chrono::milliseconds(static_cast<std::int64_t>(drain_seconds * 1000)));
  if (!drained) {
    // The attempt's lease runs out by itself and another trainer goes on from its last checkpoint.
    spdlog::error("stopped with a job running drain_seconds={}", drain_seconds);
    flush_logging();
    std::_Exit(1);
  }
  health->reset();
  server->reset();
  spdlog::info("stopped");
  return 0;
}

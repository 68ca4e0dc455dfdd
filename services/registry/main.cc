// slipway-registry: wires the registry, runs it, drains it at SIGTERM.
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <format>

#include "lib/base/endpoint.h"
#include "lib/base/limit_watch.h"
#include "lib/base/log.h"
#include "lib/base/service.h"
#include "lib/obs/health_server.h"
#include "schema/limits.h"
#include "services/registry/registry_metrics.h"
#include "services/registry/restore.h"
#include "services/registry/server.h"

namespace {

// slipway-registry restore: exits once it is done.
int run_restore(const std::string& data_dir, const slipway::registry::RestoreOptions& options) {
  using namespace slipway;
  allow_stop_signals();
  const auto restored = registry::restore(data_dir, options);
  if (!restored) return exit_with(restored.error());
  if (restored->was_there)
    spdlog::info("backup was restored before, nothing to do id={} data={}", restored->id, log_value(data_dir));
  else
    spdlog::info("backup restored id={} chunks={} data={}", restored->id, restored->chunks, log_value(data_dir));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace slipway;
  prepare_process();
  // Parts and chunks come and go by the megabyte: they are given back to the system at once, so that an upload leaves
  // the idle process as small as it was.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_ARENA_MAX, 2);

  ServiceSettings settings;
  registry::ServerOptions server_options;
  std::string data_dir = "/var/lib/slipway";
  std::string backup_dir;
  int bus_port = 7071;
  int events_port = 7072;
  double lease_seconds = 10;
  double drain_seconds = 40;
  Options options("Keeps Slipway's models, versions, aliases, data sets and jobs.", "slipway-registry");
  settings.add_to(options);
  options.add("data-dir", data_dir, "Folder of the database and the chunks; one registry at a time");
  options.add("backup-dir", backup_dir, "Folder where backups are kept; empty: none are made");
  options.add("bus-port", bus_port, "Port of the calls; 0: any free one");
  options.add("events-port", events_port, "Port of the events; 0: any free one");
  options.add("lease-seconds", lease_seconds, "Time without a report after which a trainer has lost its job");
  options.add("min-free-bytes", server_options.min_free_bytes, "Room on the disk that uploads leave free");
  options.add("max-upload-bytes", server_options.uploads.max_bytes, "Largest upload, decompressed");
  options
      .add("drain-seconds", drain_seconds,
           "Time to finish what has begun at SIGTERM; then the process ends as it is, which loses nothing acknowledged")
      ->check(CLI::NonNegativeNumber);
  registry::RestoreOptions restore_options;
  options.app().fallthrough();  // --data-dir may follow the subcommand, too
  auto* restore_command = options.app().add_subcommand(
      "restore", "Puts a backup into --data-dir, which no registry may have open, and exits");
  restore_command->add_option("--from", restore_options.from, "The folder of the backups")->required();
  auto* which = restore_command->add_option("--backup", restore_options.id, "Which one; without it the latest");
  restore_command
      ->add_flag("--replace", restore_options.replace,
                 "Also when --data-dir holds data, which is deleted; with --backup")
      ->needs(which);  // "the latest" would be another one each night
  if (const auto code = options.parse(argc, argv)) return *code;
  if (auto started = start_logging("registry", settings.log_format, settings.log_level); !started) {
    return exit_with(started.error());
  }
  if (restore_command->parsed()) return run_restore(data_dir, restore_options);
  if (!std::isfinite(lease_seconds) || lease_seconds < 0.1 || lease_seconds > 3600) {
    return exit_with({.code = Code::kInvalidArgument,
                      .message = std::format("lease-seconds {}: wanted 0.1 to 3600", lease_seconds),
                      .path = {}});
  }

  // The chunks of one file are one list, of a record and of a message.
  if (constexpr std::uint64_t kMost = kMaxListItems * kChunkBytes; server_options.uploads.max_bytes > kMost) {
    return exit_with({.code = Code::kInvalidArgument,
                      .message = std::format("max-upload-bytes {}: at most {} can be kept of one file",
                                             server_options.uploads.max_bytes, kMost),
                      .path = {}});
  }

  // What waits for the disk and for peers, in a small container.
  const std::uint64_t memory = process_limits().memory_bytes;
  server_options.max_queued_upload_bytes = std::min<std::size_t>(server_options.max_queued_upload_bytes, memory / 8);
  server_options.max_answer_bytes = std::min<std::size_t>(server_options.max_answer_bytes, memory / 4);

  server_options.data_dir = data_dir;
  server_options.backup_dir = backup_dir;
  server_options.cluster_secret = settings.cluster_secret;
  server_options.calls_address = endpoint(settings.listen_address, bus_port);
  server_options.events_address = endpoint(settings.listen_address, events_port);
  server_options.jobs.lease = std::chrono::milliseconds(std::llround(lease_seconds * 1000));

  const LimitWatch watch;
  Bus bus;
  auto server = registry::Server::start(bus, std::move(server_options));
  if (!server) return exit_with(server.error());
  const registry::RegistryMetrics metrics;
  const auto signals = [&metrics] {
    return std::map<std::string, std::map<std::string, std::int64_t>>{
        {"jobs", {{"outstanding", metrics.outstanding_jobs()}, {"queued", metrics.queued_jobs()}}}};
  };
  auto health = obs::HealthServer::start(
      settings.listen_address, settings.metrics_port, [&server] { return (*server)->not_ready(); }, signals);
  if (!health) return exit_with(health.error());
  if (auto announced = announce(
          settings.announce,
          {{"bus", (*server)->calls_port()}, {"events", (*server)->events_port()}, {"metrics", (*health)->port()}});
      !announced) {
    return exit_with(announced.error());
  }
  spdlog::info("registry ready bus={} events={} metrics={} data={}", (*server)->calls_port(), (*server)->events_port(),
               (*health)->port(), log_value(data_dir));

  const int signal = wait_for_stop_signal();
  spdlog::info("stopping signal={}", signal);
  // Such as the inspection of a large data set, which cannot be interrupted.
  const StopLimit limit(std::chrono::milliseconds(std::llround(drain_seconds * 1000)));
  (*server)->stop();
  bus.stop(std::chrono::seconds(1));  // answers that are still on their way
  health->reset();
  server->reset();  // closes the database
  spdlog::info("stopped");
  return 0;
}

#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <format>

#include "cli/command.h"
#include "cli/state_dir.h"
#include "cli/supervisor.h"
#include "lib/base/service.h"

namespace slipway::cli {
namespace {

constexpr const char* kSecretVariable = "SLIPWAY_CLUSTER_SECRET";

Outcome<Exit> up(UpSettings settings) {
  block_stop_signals();
  sigset_t more;
  sigemptyset(&more);
  sigaddset(&more, SIGHUP);
  sigaddset(&more, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &more, nullptr);

  if (settings.bin_dir.empty()) {
    std::error_code error;
    settings.bin_dir = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
    if (error)
      return give_up(Exit::kRefused,
                     std::format("cannot tell where this program is ({}); give --bin-dir", error.message()));
  }
  auto state = StateDir::open(settings.state_dir);
  if (!state) return give_up(Exit::kRefused, state.error().message);
  // By the environment, which other users cannot read; command lines they can.
  if (const char* given = std::getenv(kSecretVariable); given == nullptr || *given == '\0') {
    const auto secret = state->secret();
    if (!secret) return give_up(Exit::kRefused, secret.error().message);
    setenv(kSecretVariable, secret->c_str(), 1);
  }
  return Supervisor(std::move(settings), std::move(*state)).run();
}

}  // namespace

void add_up_command(CLI::App& app, Session& session) {
  auto* command = app.add_subcommand("up", "Run gateway, registry, trainer and inferencer on this machine");
  auto settings = std::make_shared<UpSettings>();
  settings->state_dir = default_state_dir();
  command->add_option("--state-dir", settings->state_dir, "Where data, logs and up.json are kept (SLIPWAY_HOME)")
      ->capture_default_str();
  command->add_option("--http-port", settings->http_port, "Port of the API on 127.0.0.1; 0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  command->add_option("--trainers", settings->trainers, "Trainer processes")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  command->add_option("--inferencers", settings->inferencers, "Inferencer processes")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  for (const std::string role : {"registry", "gateway", "trainer", "inferencer"}) {
    command
        ->add_option(std::format("--{}-arg", role), settings->extra_arguments[role],
                     std::format("A flag for slipway-{}, e.g. --{}-arg=--log-level=debug; repeatable", role, role))
        ->allow_extra_args(false);
  }
  command->add_option("--bin-dir", settings->bin_dir, "Where the services' programs are; default: beside this one");
  command->add_option("--start-seconds", settings->start_seconds, "Time for everything to become ready")
      ->capture_default_str();
  command->add_option("--stop-seconds", settings->stop_seconds, "Time for a service to stop before it is killed")
      ->capture_default_str();
  command->add_flag("--quiet,-q", settings->quiet, "Do not repeat the services' logs here; they are in STATE/logs");
  command->footer(
      "Examples:\n"
      "  slipway up\n"
      "  slipway up --state-dir /tmp/try --http-port 0 --trainers 2 --registry-arg=--lease-seconds=2\n"
      "A service that ends is started again on the same ports, after 0.2 s, then 0.4 s, up to 5 s. STATE/up.json says\n"
      "what runs: URL, process ids, ports, restarts. Ctrl-C or SIGTERM stops everything in order; a second one at "
      "once.");
  command->callback([&session, settings] { session.run = [settings] { return up(*settings); }; });
}

}  // namespace slipway::cli

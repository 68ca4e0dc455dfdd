// The person's tool: everything goes through the gateway's HTTP API, but `slipway up`, which runs the services.
#include <signal.h>

#include <print>

#include "cli/command.h"
#include "lib/base/options.h"

int main(int argc, char** argv) {
  using namespace slipway::cli;
  signal(SIGPIPE, SIG_IGN);
  slipway::Options options("Trains, versions and serves models through a Slipway gateway.", "slipway");
  Session session;
  CLI::App& app = options.app();
  app.fallthrough();  // the global options may also follow the subcommand
  app.require_subcommand(1);
  options.add("server", session.server, "URL of the gateway (SLIPWAY_SERVER)");
  options.add("timeout", session.timeout_seconds, "Seconds to wait for an answer (SLIPWAY_TIMEOUT)")
      ->check(CLI::Range(0.001, 1e6));
  options
      .add("connect-within", session.connect_within_seconds,
           "Seconds to go on trying while nothing accepts connections there (SLIPWAY_CONNECT_WITHIN)")
      ->check(CLI::Range(0.0, 1e6));
  app.add_flag("--json", session.json, "Print the server's JSON instead of tables, for scripts");
  add_up_command(app, session);
  add_dataset_commands(app, session);
  add_job_commands(app, session);
  add_model_commands(app, session);
  add_predict_command(app, session);
  add_evaluate_command(app, session);
  add_doctor_command(app, session);
  add_backup_command(app, session);
  app.footer(
      "A first tour:\n"
      "  slipway up &\n"
      "  slipway dataset put boston examples/boston/boston.csv\n"
      "  slipway train examples/boston/job.json --watch\n"
      "  slipway models\n"
      "`slipway COMMAND --help` has examples for each command.\n"
      "\n"
      "Exit codes: 0 done; 1 the server refused, the job failed, a service could not run or doctor found something; 2 "
      "wrong usage or an "
      "unusable\n"
      "local file; 3 the server cannot be reached; 4 the job was cancelled; 130 watching was ended by Ctrl-C.");
  if (const auto code = options.parse(argc, argv)) return *code;

  const auto outcome = session.run();
  if (outcome) return static_cast<int>(*outcome);
  std::println(stderr, "slipway: {}", outcome.error().message);
  return static_cast<int>(outcome.error().exit);
}

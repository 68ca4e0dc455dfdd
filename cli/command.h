// What all subcommands share: the global options, and the pieces by which they talk and print.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <boost/json.hpp>
#include <functional>
#include <string>
#include <vector>

#include "cli/http_client.h"
#include "cli/outcome.h"
#include "cli/progress_bar.h"

namespace slipway::cli {

// Filled by the command line; `run` is what the subcommand given will do.
struct Session {
  std::string server = "http://127.0.0.1:8080";
  double timeout_seconds = 60;
  double connect_within_seconds = 0;
  bool json = false;
  std::function<Outcome<Exit>()> run;

  [[nodiscard]] HttpClient client() const {
    return HttpClient(server, std::chrono::duration<double>(timeout_seconds),
                      std::chrono::duration<double>(connect_within_seconds), &interrupted());
  }

  // Set by Ctrl-C once catch_interrupt() has been called.
  static std::atomic<bool>& interrupted();
  static void catch_interrupt();
};

void add_backup_command(CLI::App& app, Session& session);
void add_dataset_commands(CLI::App& app, Session& session);
void add_job_commands(CLI::App& app, Session& session);
void add_model_commands(CLI::App& app, Session& session);
void add_predict_command(CLI::App& app, Session& session);
void add_evaluate_command(CLI::App& app, Session& session);
void add_doctor_command(CLI::App& app, Session& session);
void add_up_command(CLI::App& app, Session& session);

// One line of JSON on standard output.
void print_json(const boost::json::value& value);

// The whole of a local text file; "-" is the standard input. Errors: kUsage.
[[nodiscard]] Outcome<std::string> read_text_file(const std::string& file);

// JSON from the command line or a file; `what` names it in the error. Errors: kUsage.
[[nodiscard]] Outcome<boost::json::value> parse_json(std::string_view text, const std::string& what);

// A TransferProgress that draws on `line`, at most some times a second.
[[nodiscard]] TransferProgress transfer_bar(StatusLine& line, std::string what);

// "loss 0.3211  accuracy 0.8842" from {"loss": 0.3211, ...}.
[[nodiscard]] std::string metrics_text(const boost::json::value& metrics);

}  // namespace slipway::cli

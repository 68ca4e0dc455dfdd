// What every service's main does the same way: settings all share, logging, waiting for SIGTERM, saying where it
// listens.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <thread>

#include "lib/base/error.h"
#include "lib/base/options.h"

namespace slipway {

// Of an installation that has no name: any release of the software, so that one process after another may be replaced.
inline constexpr std::string_view kDefaultReleaseId = "slipway";

struct ServiceSettings {
  std::string listen_address = "127.0.0.1";  // every port of the process is bound on it; "::" for all of IPv6 and IPv4
  int metrics_port = 9090;                   // /metrics, /healthz, /readyz; 0: any free one
  std::string log_format = "text";
  std::string log_level = "info";
  std::string announce;  // file that gets {"name": port, ...} once all ports are bound; empty: none
  std::string release_id{kDefaultReleaseId};
  std::string cluster_secret;  // shared by all services of an installation; empty: none is asked for
  void add_to(Options& options);
};

// What every service does first in main: blocks the stop signals and raises the limit of open descriptors.
void prepare_process();

// Blocks SIGTERM and SIGINT in the calling thread and those it starts later, and ignores SIGPIPE. Call first in main.
void block_stop_signals();

// The opposite of block_stop_signals(): they end the process. For work that leaves everything in order at any moment.
void allow_stop_signals();

// Waits until SIGTERM or SIGINT comes; returns its number.
int wait_for_stop_signal();

// Writes `ports` as a JSON object to `file`, whole or not at all. Errors: kInternal (cannot write).
[[nodiscard]] Result<void> announce(const std::string& file, const std::map<std::string, int>& ports);

// Logs the error, waits until the log has it, and returns exit code 1.
int exit_with(const Error& error);

// Ends the process with exit code 1 when it still lives after `limit`: for work that cannot be interrupted, and whose
// thread can therefore not be joined. For the end of main.
class StopLimit {
 public:
  explicit StopLimit(std::chrono::milliseconds limit);

 private:
  std::jthread thread_;
};

}  // namespace slipway

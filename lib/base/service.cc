#include "lib/base/service.h"

#include <malloc.h>
#include <signal.h>

#include <boost/json.hpp>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "lib/base/readings.h"

namespace slipway {

void ServiceSettings::add_to(Options& options) {
  options.add("listen-address", listen_address,
              "Address that the ports are bound on, of IPv4 or IPv6; names are dialled over the same");
  options.add("metrics-port", metrics_port, "Port of /metrics, /healthz and /readyz; 0: any free one");
  options.add("log-format", log_format, "text or json");
  options.add("log-level", log_level, "trace, debug, info, warning, error or off");
  options.add("announce", announce, "Write the bound ports as JSON to this file once ready");
  options.add("release-id", release_id, "Name of the installation; only workers of the same one are accepted");
  options.add("cluster-secret", cluster_secret,
              "Secret that services of one installation show each other; empty: none. Better by environment or file");
}

namespace {
sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}
}  // namespace

void prepare_process() {
  block_stop_signals();
  raise_descriptor_limit();
  static const Reading limit{"slipway_descriptor_limit", "Descriptors this process may have open.", descriptor_limit};
}

void block_stop_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

void allow_stop_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

int wait_for_stop_signal() {
  malloc_trim(0);  // what only the start needed goes back to the machine
  const sigset_t set = stop_signals();
  int number = 0;
  sigwait(&set, &number);
  return number;
}

Result<void> announce(const std::string& file, const std::map<std::string, int>& ports) {
  if (file.empty()) return {};
  boost::json::object object;
  for (const auto& [name, port] : ports) object[name] = port;
  const std::string part = file + ".part";
  {
    std::ofstream out(part);
    out << boost::json::serialize(object) << '\n';
    if (!out.flush()) return fail(Code::kInternal, std::format("cannot write {}", part));
  }
  std::error_code failed;
  std::filesystem::rename(part, file, failed);
  if (failed) return fail(Code::kInternal, std::format("cannot write {}: {}", file, failed.message()));
  return {};
}

StopLimit::StopLimit(std::chrono::milliseconds limit)
    : thread_([limit](const std::stop_token& stopped) {
        std::mutex mutex;
        std::condition_variable_any wake;
        std::unique_lock lock(mutex);
        wake.wait_for(lock, stopped, limit, [] { return false; });
        if (stopped.stop_requested()) return;
        spdlog::error("stopped with work running stop_limit_s={}", std::chrono::duration<double>(limit).count());
        flush_logging();
        std::_Exit(1);
      }) {}

int exit_with(const Error& error) {
  spdlog::error("stopping code={} message={}", code_name(error.code), log_value(error.message));
  flush_logging();
  return 1;
}

}  // namespace slipway

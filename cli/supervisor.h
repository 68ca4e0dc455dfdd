// Runs the four services on this machine as children: starts them in order, on ports that each finds free, starts again
// what ends, and stops them in an order in which nothing in flight is lost.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/child.h"
#include "cli/outcome.h"
#include "cli/restart_policy.h"
#include "cli/state_dir.h"

namespace slipway::cli {

struct UpSettings {
  std::filesystem::path state_dir;
  std::filesystem::path bin_dir;  // where slipway-gateway and its siblings are
  int http_port = 8080;           // 0: any free one
  int trainers = 1;
  int inferencers = 1;
  std::map<std::string, std::vector<std::string>> extra_arguments;  // role -> flags for every process of it
  double start_seconds = 120;                                       // until all are ready the first time
  double stop_seconds = 30;                                         // for each of the three steps of stopping
  bool quiet = false;                                               // logs to their files only
};

// Files in the state folder: up.json (what runs where; replaced at every change, gone when nothing runs),
// logs/NAME.log, and a folder of its own for each service with state.
class Supervisor {
 public:
  Supervisor(UpSettings settings, StateDir state);
  ~Supervisor();

  // Runs until SIGINT, SIGTERM or SIGHUP; a second one kills what has not stopped yet. Call in the main thread with
  // these and SIGCHLD blocked. Errors: kRefused (a program is missing, a service cannot be started).
  [[nodiscard]] Outcome<Exit> run();

 private:
  using Clock = RestartPolicy::Clock;
  struct Service;

  [[nodiscard]] Outcome<void> set_up();
  [[nodiscard]] bool can_start(const Service& service) const;
  [[nodiscard]] std::vector<std::string> command_of(const Service& service) const;
  [[nodiscard]] Outcome<void> step(Service& service, Clock::time_point now);
  [[nodiscard]] Outcome<void> ended(Service& service, const std::string& how, Clock::time_point now);
  [[nodiscard]] bool read_announced(Service& service);
  void check_ready(Clock::time_point now);
  void collect_output(Service& service);
  void write_up_json();
  void wait(int signals, int timeout_ms);
  [[nodiscard]] int next_timeout_ms(Clock::time_point now) const;
  void stop_all(int signals);
  [[nodiscard]] const Service& one(const std::string& role) const;

  const UpSettings settings_;
  const StateDir state_;
  std::vector<std::unique_ptr<Service>> services_;
  bool changed_ = true;
  bool all_ready_ = false;
  bool was_ready_ = false;
  int stop_signals_ = 0;
};

}  // namespace slipway::cli

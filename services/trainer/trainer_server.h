// The trainer's side of the bus: claims one job at a time at the registry and runs it on a thread of its own. Gateways'
// offers say when.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "services/trainer/attempt_settings.h"

namespace slipway::trainer {

// Life: start() begins to take jobs; drain() ends it, once. Threads: start and drain the owner's; not_ready() any.
class TrainerServer {
 public:
  struct Options {
    std::vector<std::string> gateways;  // host:port
    std::string registry;               // host:port
    bool names_over_ipv6 = false;       // Bus::Limits::names_over_ipv6
    std::string release;
    std::string cluster_secret;  // shown to gateways and registry; empty: none
    AttemptSettings attempt;
  };

  // Errors: kInvalidArgument (an address).
  [[nodiscard]] static Result<std::unique_ptr<TrainerServer>> start(Options options);
  ~TrainerServer();

  // Why this worker is not ready; empty: a gateway has welcomed it.
  [[nodiscard]] std::string not_ready() const;

  // Takes no more jobs, checkpoints a running one and gives it back. False when that took longer than `deadline`: the
  // thread still runs and the process must end without destroying this object.
  [[nodiscard]] bool drain(std::chrono::milliseconds deadline);

 private:
  struct State;
  explicit TrainerServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::trainer

// Messages to calls: predictions to the engine, versions to the store, uploaded files to the inspection.
#pragma once

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/log.h"
#include "services/inferencer/engine.h"
#include "services/inferencer/inspect_child.h"
#include "services/inferencer/memory_plan.h"
#include "services/inferencer/version_store.h"

namespace slipway::inferencer {

// Life: start() begins to serve; drain() then stop(), once each. Threads: the caller's own for start, drain and stop;
// not_ready() from any.
class Server {
 public:
  struct Options {
    std::vector<std::string> gateways;  // host:port
    std::string registry;               // host:port of its calls
    std::string registry_events;        // and of its events
    bool names_over_ipv6 = false;       // Bus::Limits::names_over_ipv6
    std::string release;
    std::string cluster_secret{};       // shown to gateways and registry; empty: none
    std::filesystem::path program;      // this binary, for inspections
    std::uint32_t max_requests = 1024;  // outstanding here, granted to the gateways as credits
    Engine::Options engine;
    VersionStore::Options store;
    InspectLimits inspect;
    std::chrono::milliseconds crash_wait{1000};  // CrashGuard::Options::wait
    // Called on the bus thread, once, when a model has crashed, or runs that should long have ended, and all that can
    // be said has been said: README.md, "When a model crashes". Nothing else than the end of the process gets the
    // thread back.
    std::function<void()> end_process = [] {
      flush_logging();
      std::_Exit(1);
    };
  };

  // Errors: kInvalidArgument (an address).
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(Options options);
  ~Server();

  // Why this worker is not ready; empty: a gateway has welcomed it and the desired versions have been dealt with.
  [[nodiscard]] std::string not_ready() const;

  // Other limits than those of the options, from now on.
  void set_memory(const MemoryPlan& plan);

  // Tells the gateways to send no more and waits until all that is here is answered, at most `deadline`.
  void drain(std::chrono::milliseconds deadline);
  void stop();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::inferencer

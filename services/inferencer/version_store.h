// Keeps the right versions in memory: asks the registry what is desired, fetches, loads and warms them up in a thread
// of its own, and hands them to the engine.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "lib/wire/caller.h"
#include "services/inferencer/engine.h"
#include "services/inferencer/quarantine_list.h"
#include "services/inferencer/version_table.h"

namespace slipway::inferencer {

// Life: must not outlive registry, engine and quarantines; stop() (or destruction) joins the thread, which may wait for
// the registry's deadline. Threads: everything may be called from any thread.
class VersionStore {
 public:
  struct Options {
    std::filesystem::path cache_dir;
    std::uint64_t cache_bytes = std::uint64_t{32} << 30;  // of files in it; those of loaded versions stay in any case
    VersionTable::Limits limits;
    ModelLimits model_limits;             // of each version
    std::int64_t max_batch_rows = 32;     // the largest batch to warm up
    std::chrono::seconds list_every{30};  // and at every gap in the registry's events
    // A module that takes longer to be loaded and warmed up is stuck, as `watchdog` then says.
    std::chrono::seconds stuck_after{600};
    Watchdog* watchdog = nullptr;  // must outlive the store
  };
  struct Events {
    std::function<void(const msg::VersionKey&)> on_ready;  // in the store's thread, as is the next
    std::function<void(const msg::VersionKey&, Error)> on_failed;
  };

  VersionStore(Caller& registry, Engine& engine, QuarantineList& quarantines, Options options, Events events);
  ~VersionStore();
  VersionStore(const VersionStore&) = delete;
  VersionStore& operator=(const VersionStore&) = delete;

  // As VersionTable::ask.
  [[nodiscard]] Result<bool> ask(const msg::VersionKey& key);

  // The same, but a version that failed lately is tried again at once.
  [[nodiscard]] Result<bool> ask_anew(const msg::VersionKey& key);

  // An event of the registry.
  void on_changed(const msg::Changed& changed);

  [[nodiscard]] std::vector<msg::VersionKey> ready() const;

  // Other limits: of all versions' memory from now on, of each version's runs from when it is loaded next.
  void set_memory(std::int64_t model_bytes, std::int64_t run_bytes);

  // Whether the registry has been read and every desired version is ready or has failed once.
  [[nodiscard]] bool settled() const;

  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slipway::inferencer

// The files that must not be loaded: what the registry says, and what was found out here and it may not know yet.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "lib/base/sha256.h"
#include "lib/wire/caller.h"

namespace slipway::inferencer {

// Life: must not outlive the caller; what marks in `folder` say is held from the start. Threads: any.
class QuarantineList {
 public:
  QuarantineList(Caller& registry, std::filesystem::path folder);

  // Why the file must not be loaded; nullopt: it may be.
  [[nodiscard]] std::optional<std::string> reason(const Digest& digest) const;

  // Tells the registry what it does not know yet and reads its list; whoever asks waits, not on the bus thread. What
  // the registry does not take is logged and told again the next time; only what it calls invalid is dropped.
  // Errors: Caller's, of the list. A registry that knows of no quarantines has none.
  [[nodiscard]] Result<void> refresh();

  // From now on the file is quarantined here; the registry is told. `told` is called once, on the bus thread: it knows,
  // or does not answer in `wait`. A mark stays until it knows.
  void report(Quarantine quarantine, std::chrono::milliseconds wait, std::function<void()> told);

 private:
  void acknowledged(const Digest& digest);
  void forget(const Digest& digest);

  Caller& registry_;
  const std::filesystem::path folder_;
  mutable std::mutex mutex_;
  std::map<Digest, Quarantine> untold_;
  std::map<Digest, std::string> told_;
};

}  // namespace slipway::inferencer

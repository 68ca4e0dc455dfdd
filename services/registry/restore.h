// A backup back into a data folder that no registry has open.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "lib/base/error.h"

namespace slipway::registry {

struct RestoreOptions {
  std::filesystem::path from;  // the folder of the backups
  std::string id;              // which one; empty: the latest
  bool replace = false;        // what the data folder holds already
};

struct Restored {
  std::string id;
  bool was_there = false;  // it had been restored before, and nothing was done
  std::uint64_t chunks = 0;
};

// Verifies all that it copies. The data folder has the backup's records from one moment to the next, once everything
// is in place and on the disk; until then it has what it had. A restore that was cut short is begun again from its
// start, and one that has been done is not done again, so that a pod may run it at each of its starts. Revisions go
// on beyond all that were ever given, so that whoever knows the registry from before reads everything anew.
// Errors: kNotFound (no such backup), kConflict (the data folder holds data and `replace` is not set; nothing has been
// changed), kUnavailable (a registry has it open; no room), kDataLoss (the backup is damaged), kUnsupported (it is of a
// later release), kInternal (I/O).
[[nodiscard]] Result<Restored> restore(const std::filesystem::path& data_dir, const RestoreOptions& options);

// Before a registry opens the folder: undoes a restore that was cut short. Errors: kConflict (one into a folder without
// data was: it must be run again), kUnavailable (one is being done).
[[nodiscard]] Result<void> clear_up_restore(const std::filesystem::path& data_dir);

}  // namespace slipway::registry

// Files that ended a process, or held one for good: by digest, until somebody lifts it. No thread or clock in here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

// Besides the codes named, everything may answer what RocksStore does. Threads: as the store's; writes from the writer
// only. Life: must not outlive the store.
class QuarantineBook {
 public:
  static constexpr std::size_t kMaxReasonBytes = 512;

  explicit QuarantineBook(RocksStore& store) : store_(store) {}

  // Keeps it, its reason cut to kMaxReasonBytes of plain text. A file that is quarantined already stays so as it was.
  // Returns whether it is new. Errors: kInvalidArgument (no digest, or a name that no model has).
  [[nodiscard]] Result<bool> put(Quarantine quarantine, std::int64_t now_ms);

  // In order of digest.
  [[nodiscard]] Result<std::vector<Quarantine>> list(const msg::ListQuarantines& question) const;

  // Why a file must not be loaded; nullopt: it may be. A quarantine that cannot be read holds all the same.
  [[nodiscard]] Result<std::optional<std::string>> reason(const Digest& digest) const;

  // Fills `quarantined` from the version's TorchScript files ("*.pt").
  [[nodiscard]] Result<void> fill(Version& version) const;

  // The version may be loaded again, and so may every other one with the same file. Errors: kNotFound (it is not
  // quarantined).
  [[nodiscard]] Result<void> lift(Version& version);

 private:
  RocksStore& store_;
};

}  // namespace slipway::registry

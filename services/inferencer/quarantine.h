// What is known of uploaded files that ended a process or held a thread for good, kept in the cache folder until the
// registry has been told: it is the registry that remembers them, for all inferencers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/sha256.h"
#include "schema/messages.h"

namespace slipway::inferencer {

// A mark is "<digest>.crashed": model, version and reason, a line each. crash_guard.cc writes it too.
inline constexpr std::string_view kCrashedSuffix = ".crashed";

// Errors: kInternal (it cannot be written).
[[nodiscard]] Result<void> leave_mark(const std::filesystem::path& folder, const Quarantine& quarantine);

// All marks, and files during whose loading the process died kStrikes times in a row. A single death may have been
// anything: the kernel, for want of memory, or somebody's kill.
inline constexpr int kStrikes = 3;
[[nodiscard]] std::vector<Quarantine> read_marks(const std::filesystem::path& folder);

// The registry knows. Strikes begin anew; what a living process is trying stays marked.
void remove_marks(const std::filesystem::path& folder, const Digest& digest);

// While it lives a file is being loaded, or run for the first time: a strike, unless it comes to its end, which takes
// back those of earlier processes at the same thing. The mark is "<digest>.<stage>-<process>-<number>.trying", locked
// while its process lives. However many marks a process leaves, it died once. Threads: any.
class Trying {
 public:
  enum class Stage : std::uint8_t { kLoad, kRun };
  Trying(const std::filesystem::path& folder, const msg::VersionKey& key, const Digest& digest, Stage stage);
  ~Trying();
  Trying(const Trying&) = delete;
  Trying& operator=(const Trying&) = delete;

 private:
  std::filesystem::path folder_;
  Digest digest_;
  Stage stage_;
  std::filesystem::path path_;
  int fd_;  // -1: it could not be written
};

}  // namespace slipway::inferencer

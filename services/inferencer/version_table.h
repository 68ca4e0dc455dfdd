// Which versions should be in memory, which are, and what to do next. No thread, clock, torch or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"

namespace slipway::inferencer {

// Life: one per process. Threads: not thread-safe, guarded by its owner.
class VersionTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Limits {
    std::size_t max_loaded = 32;          // desired versions stay beyond it; at least one other always has room
    std::chrono::seconds first_retry{1};  // doubled at every failure
    std::chrono::seconds longest_retry{60};
    // How long a version that is no longer desired stays once its successor is ready: requests may be on their way.
    std::chrono::seconds linger{10};
  };

  explicit VersionTable(Limits limits) : limits_(limits) {}

  // The versions of `model` that must be ready: its latest and its aliased ones.
  void set_desired(const std::string& model, const std::set<std::uint64_t>& versions, TimePoint now);

  // Models outside `models` are gone: nothing of theirs is desired any more.
  void keep_only(const std::set<std::string>& models, TimePoint now);

  // Someone wants `key` now. Ready: true. To be loaded: false; loaded() or failed() will follow. Error: it failed
  // lately and will not be tried before its back-off is over.
  [[nodiscard]] Result<bool> ask(const msg::VersionKey& key, TimePoint now);

  // The version to load next, which then counts as loading: asked for ones first; nullopt: none now.
  [[nodiscard]] std::optional<msg::VersionKey> next_load(TimePoint now);
  void loaded(const msg::VersionKey& key, TimePoint now);
  void failed(const msg::VersionKey& key, Error error, TimePoint now);

  // Versions to give up, the first ones most urgently: superseded ones whose successor is ready, and the least recently
  // used beyond the limit. Whoever can unload one (it may be busy) says so with unloaded().
  [[nodiscard]] std::vector<msg::VersionKey> to_unload(TimePoint now) const;
  void unloaded(const msg::VersionKey& key);

  [[nodiscard]] std::vector<msg::VersionKey> ready() const;

  // Whether every desired version is ready or has been tried at least once.
  [[nodiscard]] bool settled() const;

  // When next_load() or to_unload() may have something new without anything else happening.
  [[nodiscard]] std::optional<TimePoint> next_wake() const;

 private:
  enum class Phase : std::uint8_t { kAbsent, kLoading, kReady, kFailed };
  struct Entry {
    Phase phase = Phase::kAbsent;
    bool desired = false;
    bool asked = false;                   // and not loaded since
    TimePoint used{};                     // last asked for, or no longer desired
    std::optional<TimePoint> superseded;  // since when it is no longer desired
    int failures = 0;
    TimePoint retry_at{};
    Error error{};
  };

  [[nodiscard]] bool successors_ready(const std::string& model) const;
  void undesire(Entry& entry, TimePoint now);

  const Limits limits_;
  std::map<msg::VersionKey, Entry> entries_;
};

// Sees a missed message in a stream of revisions.
class RevisionWatch {
 public:
  // Whether everything must be read again: the first event, a gap, or a revision that went back.
  [[nodiscard]] bool missed(std::uint64_t revision);

 private:
  std::optional<std::uint64_t> last_;
};

}  // namespace slipway::inferencer

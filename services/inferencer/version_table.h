// Which versions should be in memory, which are, and what to do next. No thread, clock, torch or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"

namespace slipway::inferencer {

// A version is desired when its model's latest number or an alias says so. Desired ones are loaded before anybody asks
// as long as there is room, or when their models are in more use than what would have to go; any version is loaded when
// somebody asks. Beyond the limits the least recently used ones go, desired or not, and come back when asked for.
// Life: one per process. Threads: not thread-safe, guarded by its owner. Costs: ask() and loaded() are logarithmic in
// the versions, a listing with all its loads is near to linear; "Versions" in README.md.
class VersionTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Limits {
    std::size_t max_loaded = 1024;                   // versions in memory; the one used last stays in any case
    std::int64_t max_bytes = std::int64_t{1} << 60;  // of their memory, the same
    std::chrono::seconds first_retry{1};             // doubled at every failure
    std::chrono::seconds longest_retry{60};
    // How long a version that is no longer desired stays once its successor is ready: requests may be on their way.
    std::chrono::seconds linger{10};
  };

  explicit VersionTable(Limits limits) : limits_(limits) {}
  VersionTable(const VersionTable&) = delete;
  VersionTable& operator=(const VersionTable&) = delete;

  // The versions of `model` that should be ready: its latest and its aliased ones. None: the model is not served, and
  // those that somebody asked for leave too.
  void set_desired(const std::string& model, const std::set<std::uint64_t>& versions, TimePoint now);

  // Models outside `models` are gone: nothing of theirs is desired any more.
  void keep_only(const std::set<std::string>& models, TimePoint now);

  // Someone wants `key` now. Ready: true. To be loaded: false; loaded() or failed() will follow. Error: it failed
  // lately and will not be tried before its back-off is over.
  [[nodiscard]] Result<bool> ask(const msg::VersionKey& key, TimePoint now);

  // The version to load next, which then counts as loading: asked for ones first; nullopt: none now.
  [[nodiscard]] std::optional<msg::VersionKey> next_load(TimePoint now);
  // `bytes`: the memory that it takes now.
  void loaded(const msg::VersionKey& key, std::int64_t bytes, TimePoint now);
  // It cannot be loaded, or, when it is ready, must not be run any more.
  void failed(const msg::VersionKey& key, Error error, TimePoint now);

  // A ready version takes another amount of memory than before.
  void set_bytes(const msg::VersionKey& key, std::int64_t bytes);
  // A ready version is to be unloaded whoever wants it; from now on who asks waits for it to be loaded afresh.
  void give_up(const msg::VersionKey& key);

  // Versions to give up, the first ones most urgently: given up ones, superseded ones whose successor is ready, and,
  // when a limit is passed, all others from the least recently used one on but for the last. Whoever can unload one (it
  // may be busy) first asks may_unload(), which is false as soon as there is room, and says so with unloaded().
  [[nodiscard]] std::vector<msg::VersionKey> to_unload(TimePoint now) const;
  [[nodiscard]] bool may_unload(const msg::VersionKey& key, TimePoint now) const;
  // It is not there; a failed one may be tried again at once.
  void unloaded(const msg::VersionKey& key);

  // Another limit of the memory of all; what is over it goes.
  void set_max_bytes(std::int64_t bytes) { limits_.max_bytes = bytes; }

  [[nodiscard]] std::vector<msg::VersionKey> ready() const;
  [[nodiscard]] std::size_t ready_count() const { return by_use_.size(); }
  [[nodiscard]] std::int64_t ready_bytes() const { return bytes_; }

  // Whether every desired version is ready, has been tried at least once, or has no room.
  [[nodiscard]] bool settled() const;

  // When next_load() or to_unload() may have something new without anything else happening.
  [[nodiscard]] std::optional<TimePoint> next_wake() const;

  // Versions looked at since the start, in all calls: what their cost grows with.
  [[nodiscard]] std::uint64_t looked_at() const { return looked_at_; }

 private:
  enum class Phase : std::uint8_t { kAbsent, kLoading, kReady, kFailed };
  struct Entry;
  // The least recently used first; equally old ones in the order in which they came.
  using ByUse = std::multimap<TimePoint, Entry*>;
  // The most recently used first: a version inherits its model's last use.
  using Wanted = std::multimap<TimePoint, Entry*, std::greater<>>;
  using Retries = std::multimap<TimePoint, Entry*>;  // by when they may be tried again
  struct Line {
    std::map<std::uint64_t, Entry> versions;
    std::size_t desired_not_ready = 0;
  };
  struct Entry {
    const std::string* model = nullptr;
    Line* line = nullptr;
    std::uint64_t version = 0;
    Phase phase = Phase::kAbsent;
    bool desired = false;
    bool asked = false;  // and not loaded since
    bool given_up = false;
    TimePoint used{};                     // last asked for, or no longer desired; its model's when it became desired
    std::optional<TimePoint> superseded;  // since when it is no longer desired
    std::int64_t bytes = 0;
    int failures = 0;
    TimePoint retry_at{};
    Error error{};
    TimePoint asked_at{};                         // the first time, while `asked`
    std::optional<ByUse::iterator> in_use;        // while ready
    std::optional<Wanted::iterator> in_wanted;    // while desired, not asked for, and absent or due for another try
    std::optional<Retries::iterator> in_retries;  // while failed and not due for another try
  };

  static msg::VersionKey key_of(const Entry& entry) { return {*entry.model, entry.version}; }
  Entry& entry_of(const msg::VersionKey& key);
  Entry* find(const msg::VersionKey& key) const;
  void forget(Entry& entry);
  void set_phase(Entry& entry, Phase phase);
  void refile(Entry& entry);
  void undesire(Entry& entry, TimePoint now, bool in_any_case);
  void use(Entry& entry, TimePoint now);
  [[nodiscard]] bool over() const;
  [[nodiscard]] bool is_superseded(const Entry& entry, TimePoint now) const;
  [[nodiscard]] bool has_room(const Entry& entry) const;
  [[nodiscard]] Entry* next_wanted(bool untried) const;

  Limits limits_;
  std::map<std::string, Line> lines_;
  ByUse by_use_;
  Wanted wanted_;
  Retries retries_;
  std::set<std::pair<TimePoint, Entry*>> asked_;  // absent or due for another try, by asked_at
  std::set<Entry*> leaving_;                      // ready, and superseded or given up
  std::set<Entry*> loading_;
  std::int64_t bytes_ = 0;  // of ready versions
  mutable std::uint64_t looked_at_ = 0;
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

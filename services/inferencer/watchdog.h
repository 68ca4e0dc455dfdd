// Knows which models run right now, and until when they may: torch cannot be interrupted, so one that runs on for ever
// holds its thread until the process ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "lib/base/sha256.h"
#include "schema/messages.h"

namespace slipway::inferencer {

// Threads: any.
class Watchdog {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  struct Run {
    msg::VersionKey key;
    Digest digest{};        // of the module's file
    bool uploaded = false;  // a stranger's program
    TimePoint until{};
  };

  // Ends with the object that it gives back.
  class Guard {
   public:
    Guard(Watchdog* watchdog, std::uint64_t id) : watchdog_(watchdog), id_(id) {}
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard() {
      if (watchdog_ != nullptr) watchdog_->end(id_);
    }

   private:
    Watchdog* watchdog_;
    std::uint64_t id_;
  };
  // Without a watchdog nothing is watched.
  [[nodiscard]] static Guard watch(Watchdog* watchdog, Run run) {
    return {watchdog, watchdog == nullptr ? 0 : watchdog->begin(std::move(run))};
  }

  // Models that run now.
  [[nodiscard]] std::size_t running() const;

  // A run that should have ended before `now`.
  [[nodiscard]] std::optional<Run> overdue(TimePoint now) const;

 private:
  std::uint64_t begin(Run run);
  void end(std::uint64_t id);

  mutable std::mutex mutex_;
  std::map<std::uint64_t, Run> runs_;
  std::uint64_t next_ = 0;
};

}  // namespace slipway::inferencer

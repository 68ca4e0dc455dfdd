// Memory that all requests of a gateway share: bodies, tensors and what is printed of them.
#pragma once

#include <atomic>
#include <cstdint>

#include "lib/base/error.h"
#include "lib/base/machine.h"

namespace slipway::gateway {

// The budget of a gateway that is not told one: half of a memory limit of its own, as a container has; on a machine
// that it shares, 1 GiB, and half of the machine's memory at most.
[[nodiscard]] std::uint64_t default_budget_bytes(const ProcessLimits& limits);

// Threads: any.
class MemoryBudget {
 public:
  explicit MemoryBudget(std::uint64_t limit_bytes) : limit_(limit_bytes) {}

  [[nodiscard]] std::uint64_t limit_bytes() const { return limit_.load(std::memory_order_relaxed); }
  // What is held already stays; while that is over the limit, nothing more is taken.
  void set_limit(std::uint64_t bytes) { limit_.store(bytes, std::memory_order_relaxed); }

  [[nodiscard]] std::uint64_t held_bytes() const { return held_.load(std::memory_order_relaxed); }

 private:
  friend class MemoryShare;

  std::atomic<std::uint64_t> limit_;
  std::atomic<std::uint64_t> held_{0};
};

// What one request holds of a budget; given back at its end. A default one counts nothing and takes all.
// Life: must not outlive the budget. Threads: any, one at a time.
class MemoryShare {
 public:
  MemoryShare() = default;
  explicit MemoryShare(MemoryBudget& budget) : budget_(&budget) {}
  ~MemoryShare() { keep(0); }
  MemoryShare(const MemoryShare&) = delete;
  MemoryShare& operator=(const MemoryShare&) = delete;

  // Another one of the same budget, which holds nothing yet.
  [[nodiscard]] MemoryShare another() const {
    if (budget_ == nullptr) return {};
    return MemoryShare(*budget_);
  }

  // Takes `bytes` more. Errors: kTooLarge (this request alone would be over the limit), kOverloaded (all together
  // would).
  [[nodiscard]] Result<void> take(std::uint64_t bytes);

  // Holds `bytes` from now on, whatever the limit.
  void keep(std::uint64_t bytes);

  [[nodiscard]] std::uint64_t held_bytes() const { return held_; }

 private:
  MemoryBudget* budget_ = nullptr;
  std::uint64_t held_ = 0;
};

}  // namespace slipway::gateway

// Memory that all requests of a gateway share: bodies, tensors and what is printed of them.
#pragma once

#include <atomic>
#include <cstdint>

#include "lib/base/error.h"

namespace slipway::gateway {

// Threads: any.
class MemoryBudget {
 public:
  explicit MemoryBudget(std::uint64_t limit_bytes) : limit_(limit_bytes) {}

  [[nodiscard]] std::uint64_t held_bytes() const { return held_.load(std::memory_order_relaxed); }

 private:
  friend class MemoryShare;

  const std::uint64_t limit_;
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

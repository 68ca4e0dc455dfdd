#include "services/gateway/memory_budget.h"

#include <algorithm>

namespace slipway::gateway {

std::uint64_t default_budget_bytes(const ProcessLimits& limits) {
  constexpr std::uint64_t kShared = 1 << 30;
  return limits.memory_is_own ? limits.memory_bytes / 2 : std::min(kShared, limits.memory_bytes / 2);
}

Result<void> MemoryShare::take(std::uint64_t bytes) {
  if (budget_ == nullptr) return {};
  const std::uint64_t limit = budget_->limit_bytes();
  if (bytes > limit || held_ > limit - bytes) {
    return fail(Code::kTooLarge,
                std::format("the request and its answer take more than the {} bytes that all of them may take "
                            "(--max-buffered-bytes)",
                            limit));
  }
  const std::uint64_t before = budget_->held_.fetch_add(bytes, std::memory_order_relaxed);
  if (before > limit - bytes) {
    budget_->held_.fetch_sub(bytes, std::memory_order_relaxed);
    return fail(Code::kOverloaded, std::format("requests and answers in memory would be over {} bytes in all", limit));
  }
  held_ += bytes;
  return {};
}

void MemoryShare::keep(std::uint64_t bytes) {
  if (budget_ == nullptr) return;
  if (bytes > held_)
    budget_->held_.fetch_add(bytes - held_, std::memory_order_relaxed);
  else
    budget_->held_.fetch_sub(held_ - bytes, std::memory_order_relaxed);
  held_ = bytes;
}

}  // namespace slipway::gateway

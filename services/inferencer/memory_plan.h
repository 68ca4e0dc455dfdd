// How an inferencer divides the memory that it may use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace slipway::inferencer {

struct MemoryPlan {
  std::int64_t model_bytes = 0;     // all loaded versions
  std::int64_t run_bytes = 0;       // one version's batches, answers and kept state
  std::size_t queued_bytes = 0;     // inputs that wait
  std::uint64_t inspect_bytes = 0;  // one inspection's process, beside four times the file

  bool operator==(const MemoryPlan&) const = default;
};

[[nodiscard]] inline MemoryPlan plan_memory(std::uint64_t limit_bytes) {
  constexpr std::uint64_t kMiB = 1 << 20;
  return {.model_bytes = static_cast<std::int64_t>(limit_bytes / 2),
          .run_bytes = static_cast<std::int64_t>(std::max(limit_bytes / 4, 256 * kMiB)),
          .queued_bytes = std::min(limit_bytes / 8, 1024 * kMiB),
          .inspect_bytes = std::clamp(limit_bytes / 2, 512 * kMiB, 4096 * kMiB)};
}

}  // namespace slipway::inferencer

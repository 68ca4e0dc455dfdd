#include "cli/restart_policy.h"

#include <algorithm>

namespace slipway::cli {

std::optional<std::chrono::milliseconds> RestartPolicy::ended(Clock::time_point now) {
  if (!ever_ready_ && ++failed_starts_ >= kStartsBeforeGivingUp) return std::nullopt;
  if (now - started_ >= kSteady) next_wait_ = kFirstWait;
  const auto wait = next_wait_;
  next_wait_ = std::min(2 * next_wait_, kLongestWait);
  return wait;
}

}  // namespace slipway::cli

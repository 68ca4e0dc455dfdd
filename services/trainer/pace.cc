#include "services/trainer/pace.h"

#include <algorithm>

namespace slipway::trainer {

std::chrono::milliseconds pause_after(int failures) {
  constexpr std::chrono::milliseconds kShortest{500};
  constexpr std::chrono::milliseconds kLongest{15'000};
  constexpr int kDoublings = 5;  // reach the longest
  return std::min(kLongest, kShortest * (1 << std::clamp(failures - 1, 0, kDoublings)));
}

std::chrono::duration<double> checkpoint_pause(std::chrono::duration<double> every, bool first, int failures) {
  using Seconds = std::chrono::duration<double>;
  Seconds pause = std::max<Seconds>(every, kLeastBetweenCheckpoints);
  if (first) pause = std::min<Seconds>(pause, kFirstCheckpoint);
  return failures > 0 ? std::max<Seconds>(pause, pause_after(failures)) : pause;
}

}  // namespace slipway::trainer

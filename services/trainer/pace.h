// How often an attempt does what costs others something. No clock or thread in here.
#pragma once

#include <chrono>

namespace slipway::trainer {

// Checkpoints come no closer than this, whatever a job asks for.
inline constexpr std::chrono::milliseconds kLeastBetweenCheckpoints{100};
// An attempt's first checkpoint comes after this at the latest: an attempt that is ended again and again gets
// somewhere.
inline constexpr std::chrono::seconds kFirstCheckpoint{10};

// The pause before the next try of what has failed `failures` times in a row: half a second, doubling up to 15 s.
[[nodiscard]] std::chrono::milliseconds pause_after(int failures);

// The time from the start of an attempt (`first`), or from its last checkpoint, to the next one; `failures` is how many
// in a row the registry has not taken.
[[nodiscard]] std::chrono::duration<double> checkpoint_pause(std::chrono::duration<double> every, bool first,
                                                             int failures);

}  // namespace slipway::trainer

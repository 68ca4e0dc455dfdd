// The process's memory as the machine and the C library give it.
#pragma once

#include <cstdint>

namespace slipway {

// Memory that this process may use at most: the smaller of the machine's and of its cgroup's limit (v2, else v1). 8 GiB
// when neither can be read.
[[nodiscard]] std::int64_t machine_memory_bytes();

// Settings of malloc for a process whose large blocks come and go with every batch: one heap that keeps what was freed,
// so that the next batch finds its memory mapped. Call first in main, before other threads exist. README.md has
// figures.
void settle_malloc();

// Returns to the machine what has been freed. Takes milliseconds, more after a large release; malloc waits meanwhile.
void give_memory_back();

}  // namespace slipway

// The process's memory as the C library gives it.
#pragma once

namespace slipway {

// Settings of malloc for a process whose large blocks come and go with every batch: one heap that keeps what was freed,
// so that the next batch finds its memory mapped. Call first in main, before other threads exist. README.md has
// figures.
void settle_malloc();

// Returns to the machine what has been freed. Takes milliseconds, more after a large release; malloc waits meanwhile.
void give_memory_back();

}  // namespace slipway

#include "lib/torch_runtime/memory.h"

#include <malloc.h>

#include <cstdint>

namespace slipway {

void settle_malloc() {
  constexpr int kGiB = 1 << 30;
  mallopt(M_ARENA_MAX, 1);
  // Set by hand, these two also stop glibc from moving them.
  mallopt(M_MMAP_THRESHOLD, kGiB);
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
}

void give_memory_back() { malloc_trim(0); }

}  // namespace slipway

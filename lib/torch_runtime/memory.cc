#include "lib/torch_runtime/memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace slipway {
namespace {

constexpr std::int64_t kNone = INT64_MAX;

std::int64_t machine_total() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::int64_t kib = 0;
  while (file >> name >> kib) {
    if (name == "MemTotal:") return kib * 1024;
    file.ignore(1000, '\n');
  }
  return kNone;
}

// A container sees its own group at the root of the mount; "max" is no number.
std::int64_t limit_in(const char* path) {
  std::ifstream file(path);
  std::int64_t bytes = 0;
  return file >> bytes && bytes > 0 ? bytes : kNone;
}

}  // namespace

std::int64_t machine_memory_bytes() {
  constexpr std::int64_t kUnknown = std::int64_t{8} << 30;
  const auto most = std::min({machine_total(), limit_in("/sys/fs/cgroup/memory.max"),
                              limit_in("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
  return most == kNone ? kUnknown : most;
}

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

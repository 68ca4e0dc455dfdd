#include "lib/base/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

namespace slipway {
namespace {

constexpr std::uint64_t kMost = std::uint64_t{1} << 62;

int affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// Of cgroup v2, else v1; "max" and -1 mean no limit. A container sees its own group at the root of the mount.
double quota_cores() {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  if (std::ifstream file("/sys/fs/cgroup/cpu.max"); file) {
    double quota = 0;
    double period = 0;
    return file >> quota >> period && quota > 0 && period > 0 ? quota / period : kNone;
  }
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  return quota_file >> quota && period_file >> period && quota > 0 && period > 0 ? quota / period : kNone;
}

std::uint64_t machine_left() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) * 1024;  // given in KiB
  }
  return kMost;
}

// Page cache counts as used but is given up before anything is refused.
std::uint64_t cgroup_left(const std::string& limit_file, const std::string& used_file, const std::string& stat_file,
                          const std::string& cache_key) {
  std::uint64_t limit = 0;
  std::uint64_t used = 0;
  std::ifstream limits(limit_file);
  std::ifstream uses(used_file);
  if (!(limits >> limit) || !(uses >> used)) return kMost;  // also "max"
  std::ifstream stat(stat_file);
  std::string key;
  std::uint64_t value = 0;
  while (stat >> key >> value) {
    if (key == cache_key) used -= std::min(used, value);
  }
  return std::min(kMost, limit - std::min(limit, used));
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

int usable_cores() {
  const int affinity = affinity_cores();
  const double quota = std::floor(quota_cores());
  return quota < affinity ? std::max(1, static_cast<int>(quota)) : affinity;
}

std::uint64_t memory_left() {
  const std::string v2 = "/sys/fs/cgroup/";
  const std::string v1 = "/sys/fs/cgroup/memory/";
  return std::min({machine_left(),
                   cgroup_left(v2 + "memory.max", v2 + "memory.current", v2 + "memory.stat", "inactive_file"),
                   cgroup_left(v1 + "memory.limit_in_bytes", v1 + "memory.usage_in_bytes", v1 + "memory.stat",
                               "total_inactive_file")});
}

std::uint64_t descriptor_limit() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : std::numeric_limits<std::uint64_t>::max();
}

std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);  // what it is then is what counts
  }
  return descriptor_limit();
}

}  // namespace slipway

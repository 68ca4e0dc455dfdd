#include "lib/base/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>

#include "lib/base/cgroup.h"

namespace slipway {
namespace {

constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
constexpr double kAnyCores = std::numeric_limits<double>::infinity();

int affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// A line of /proc/meminfo, in bytes.
std::optional<std::uint64_t> meminfo(const std::filesystem::path& root, std::string_view wanted) {
  std::ifstream file(root / "proc/meminfo");
  std::string name;
  std::uint64_t kib = 0;
  for (std::string rest; file >> name >> kib; std::getline(file, rest)) {
    if (name == wanted) return kib * 1024;
  }
  return std::nullopt;
}

}  // namespace

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

int ProcessLimits::whole_cores() const { return std::max(1, static_cast<int>(cores)); }

ProcessLimits process_limits(const std::filesystem::path& root) {
  constexpr std::uint64_t kUnknown = std::uint64_t{8} << 30;
  const CgroupLimits groups = read_cgroup(root);
  const auto machine = meminfo(root, "MemTotal:");
  const std::uint64_t most = machine.value_or(groups.memory_bytes.value_or(kUnknown));
  return {.cores = std::min(static_cast<double>(affinity_cores()), groups.cores.value_or(kAnyCores)),
          .memory_bytes = std::min(most, groups.memory_bytes.value_or(most)),
          .cores_are_own = groups.cores.has_value(),
          .memory_is_own = groups.memory_bytes.value_or(kMost) <= most};
}

int usable_cores() { return process_limits().whole_cores(); }

std::uint64_t memory_left(const std::filesystem::path& root) {
  return std::min(
      {kMost, meminfo(root, "MemAvailable:").value_or(kMost), read_cgroup(root).memory_left.value_or(kMost)});
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

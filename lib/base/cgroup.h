// What this process's control groups leave it, of version 1, 2 or both at once. Reads files only: no state, no thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace slipway {

// The smallest of its own groups and of all their ancestors that are mounted here; none: no limit.
struct CgroupLimits {
  std::optional<double> cores;                // CPU quota divided by its period
  std::optional<std::uint64_t> memory_bytes;  // limit
  std::optional<std::uint64_t> memory_left;   // limit less what is used, but for page cache that can be given up

  bool operator==(const CgroupLimits&) const = default;
};

// `root` stands for "/" in front of every path, also of those that /proc/self/mountinfo names. What cannot be read is
// no limit.
[[nodiscard]] CgroupLimits read_cgroup(const std::filesystem::path& root = "/");

}  // namespace slipway

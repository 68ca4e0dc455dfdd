// What this machine and its limits leave this process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace slipway {

// For people; "unknown" when it cannot be told.
[[nodiscard]] std::string host_name();

// What this process may use: the smaller of what the machine has and what its control groups (cgroup.h) allow. It may
// change while the process runs: limit_watch.h.
struct ProcessLimits {
  double cores = 1;                // of its affinity mask, or its CPU quota
  std::uint64_t memory_bytes = 0;  // 8 GiB when it cannot be read
  // Whether a control group gives them: what else runs on the machine does not share what somebody gave this process.
  bool cores_are_own = false;
  bool memory_is_own = false;

  // Threads that compute: rounded down, since a team that is larger than its quota is stopped in the middle of every
  // period, all of it waiting for the one that ran out; at least 1.
  [[nodiscard]] int whole_cores() const;

  bool operator==(const ProcessLimits&) const = default;
};

// `root` stands for "/", as in read_cgroup.
[[nodiscard]] ProcessLimits process_limits(const std::filesystem::path& root = "/");

// process_limits().whole_cores()
[[nodiscard]] int usable_cores();

// What this process may still take, in bytes: the smaller of the machine's free memory and what its control groups have
// left. 2^62 when neither can be read.
[[nodiscard]] std::uint64_t memory_left(const std::filesystem::path& root = "/");

// Descriptors this process may have open; 2^64 - 1 when there is no limit or it cannot be told.
[[nodiscard]] std::uint64_t descriptor_limit();

// Raises that from the soft limit to the hard one; returns what it is now. For the start of main.
std::uint64_t raise_descriptor_limit();

}  // namespace slipway

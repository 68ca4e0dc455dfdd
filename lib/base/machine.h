// What this machine and its limits leave this process.
#pragma once

#include <cstdint>
#include <string>

namespace slipway {

// For people; "unknown" when it cannot be told.
[[nodiscard]] std::string host_name();

// Cores this process may use: the smaller of its affinity mask and its cgroup's CPU quota (v2, else v1), at least 1.
[[nodiscard]] int usable_cores();

// What this process may still take, in bytes: the smaller of the machine's free memory and what its cgroup (v2, else
// v1) has left. 2^62 when neither can be read.
[[nodiscard]] std::uint64_t memory_left();

// Descriptors this process may have open; 2^64 - 1 when there is no limit or it cannot be told.
[[nodiscard]] std::uint64_t descriptor_limit();

// Raises that from the soft limit to the hard one; returns what it is now. For the start of main.
std::uint64_t raise_descriptor_limit();

}  // namespace slipway

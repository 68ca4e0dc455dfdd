// The blocks of a tar archive (POSIX ustar) around its files' bytes. No I/O in here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::gateway {

inline constexpr std::uint64_t kTarBlockBytes = 512;

// What stands before a regular file's bytes. Errors: kInternal (a name of more than 100 bytes, or a file of 8 GiB or
// more, for which ustar has no room).
[[nodiscard]] Result<std::string> tar_header(std::string_view name, std::uint64_t size_bytes,
                                             std::int64_t modified_seconds);

// What stands behind them.
[[nodiscard]] inline std::string tar_padding(std::uint64_t size_bytes) {
  return std::string((kTarBlockBytes - size_bytes % kTarBlockBytes) % kTarBlockBytes, '\0');
}

// What ends the archive.
[[nodiscard]] inline std::string tar_end() { return std::string(2 * kTarBlockBytes, '\0'); }

}  // namespace slipway::gateway

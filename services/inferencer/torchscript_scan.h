// Looks into a TorchScript file before torch may: loading one runs what its author wrote. README.md, "Strangers'
// files".
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"

namespace slipway::inferencer {

struct ScanLimits {
  std::size_t max_entries = 200'000;
  std::uint64_t max_text_bytes = 64 << 20;     // all code and debug entries together, unpacked
  std::uint64_t max_pickle_bytes = 256 << 20;  // data.pkl and constants.pkl together, unpacked
};

// What was found. Torch has its own zip reader, so that what it reads must be compared with what was read here.
struct ScannedArchive {
  std::size_t entries = 0;
  std::map<std::string, std::string> read;   // entries that were scanned, without the root folder, and their bytes
  std::vector<std::uint64_t> storage_bytes;  // sizes of the tensor entries, sorted
};

// Errors: kInvalidArgument (not a TorchScript file, or one that does what a model need not do), kTooLarge (a limit).
[[nodiscard]] Result<ScannedArchive> scan_torchscript(std::span<const std::byte> file, const ScanLimits& limits = {});

}  // namespace slipway::inferencer

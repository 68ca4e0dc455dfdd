// What an uploaded module is checked for after it was compiled and before it is first run. Torch may throw.
#pragma once

#include <torch/script.h>

#include <string>

#include "lib/base/error.h"
#include "services/inferencer/torchscript_scan.h"

namespace slipway::inferencer {

// Whether torch's own reader finds in `path` exactly what was scanned. Errors: kInvalidArgument.
[[nodiscard]] Result<void> check_same_archive(const std::string& path, const ScannedArchive& scanned);

// Every operator of every method, with all calls inlined, against the allowlist; every tensor against the bounds of its
// memory, which torch believes the file about. Errors: kInvalidArgument.
[[nodiscard]] Result<void> check_module(const torch::jit::Module& module, const ScannedArchive& scanned);

}  // namespace slipway::inferencer

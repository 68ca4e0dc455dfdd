// Reads a pickle of a TorchScript archive without running it: which classes it names and which storages it wants.
// Only the opcodes that torch itself writes are taken, so that what is read here is what torch will read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "lib/base/error.h"

namespace slipway::inferencer {

// Bytes of the record that holds storage `key`; an Error when there is none.
using StorageBytes = std::function<Result<std::uint64_t>(const std::string& key)>;

// Checks the pickle `name` (for messages). Errors: kInvalidArgument (not a pickle, an opcode TorchScript does not use,
// a class outside the allowlist, a storage that is missing or smaller than the pickle says).
[[nodiscard]] Result<void> scan_pickle(const std::string& name, std::span<const std::byte> bytes,
                                       const StorageBytes& storage);

}  // namespace slipway::inferencer

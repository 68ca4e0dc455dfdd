// Uploaded files that held a thread for good, remembered in the cache folder so that a restart does not run them again.
#pragma once

#include <filesystem>
#include <string>

#include "lib/base/error.h"
#include "lib/base/sha256.h"

namespace slipway::inferencer {

// Keeps `digest` from being loaded until its file "<digest>.quarantined" in `folder` is removed. Errors: kInternal (it
// cannot be written).
[[nodiscard]] Result<void> quarantine(const std::filesystem::path& folder, const Digest& digest,
                                      const std::string& reason);

// Errors: kInvalidArgument (quarantined: the message says why).
[[nodiscard]] Result<void> check_quarantine(const std::filesystem::path& folder, const Digest& digest);

}  // namespace slipway::inferencer

// Whether a zip archive is nothing but its entries: two readers that look for them in different places then find the
// same ones, and no other file format shares the bytes.
#pragma once

#include <cstddef>
#include <span>

#include "lib/base/error.h"

namespace slipway::inferencer {

// The first entry begins at byte 0, each other one where the one before it ends, then come the directory and the end
// record, and nothing after it; local headers and directory agree on names and sizes.
// Errors: kInvalidArgument (it is not so: the message says where).
[[nodiscard]] Result<void> check_zip_layout(std::span<const std::byte> file);

}  // namespace slipway::inferencer

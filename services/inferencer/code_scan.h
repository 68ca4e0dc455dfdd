// Looks through the source text of a TorchScript archive before torch compiles it: which operators it calls by name,
// and how deep it is nested.
#pragma once

#include <string>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::inferencer {

// `file` is for messages. The compiled graph is checked after loading; this keeps torch from even compiling what is
// plainly not a model. Errors: kInvalidArgument (refused: the message says why).
[[nodiscard]] Result<void> scan_code(const std::string& file, std::string_view code);

}  // namespace slipway::inferencer

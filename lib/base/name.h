// Names that people give: of models, data sets and aliases.
#pragma once

#include <string_view>

#include "lib/base/error.h"

namespace slipway {

// Whether `text` is [A-Za-z0-9][A-Za-z0-9._-]{0,127}.
[[nodiscard]] bool is_name(std::string_view text);

// The same with a message; `what` says in it whose name it is. Errors: kInvalidArgument.
[[nodiscard]] Result<void> check_name(std::string_view what, std::string_view name);

}  // namespace slipway

// Logging set-up: one line an event, `event key=value ...`, as text or as JSON lines, on standard error.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "lib/base/error.h"

namespace slipway {

// Starts logging for `service`. `format` is "text" or "json", `level` one of trace, debug, info, warning, error.
// Errors: kInvalidArgument (another word).
[[nodiscard]] Result<void> start_logging(const std::string& service, const std::string& format,
                                         const std::string& level);

// A value for a `key=value` field: quoted when it has blanks, quotes or control characters.
[[nodiscard]] std::string log_value(std::string_view text);

}  // namespace slipway

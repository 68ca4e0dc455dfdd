// Errors as each dialect words them. The one place where a code becomes an HTTP status.
#pragma once

#include "lib/base/error.h"
#include "services/gateway/http_message.h"
#include "services/gateway/route_table.h"

namespace slipway::gateway {

[[nodiscard]] int status_of(Code code, Dialect dialect);
[[nodiscard]] std::string_view reason_of(int status);

// The answer for `error`: RFC 9457 problem details under /api/v1, {"error": text} elsewhere; Retry-After with a 503.
[[nodiscard]] Response error_response(const Error& error, Dialect dialect, const Request& request);

// The same with a status that no code has: 405, 408, 415, 417, 431, ...
[[nodiscard]] Response error_response(int status, const Error& error, Dialect dialect, const Request& request);

// `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD.
[[nodiscard]] std::string json_quoted(std::string_view text);

}  // namespace slipway::gateway

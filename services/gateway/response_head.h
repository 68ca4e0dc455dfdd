// An answer's status line and header fields. No I/O in here.
#pragma once

#include <string>

#include "services/gateway/http_message.h"

namespace slipway::gateway {

// Writes them to `head`, whose memory is used again. `keep`: the connection stays open; `old`: HTTP/1.0.
void write_head(std::string& head, const Response& response, const Request& request, bool keep, bool old);

}  // namespace slipway::gateway

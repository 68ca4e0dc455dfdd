// openapi.json, which describes every route of this gateway; embedded when built.
#pragma once

#include <string_view>

namespace slipway::gateway {

[[nodiscard]] std::string_view openapi_document();

}  // namespace slipway::gateway

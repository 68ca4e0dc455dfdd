// What an uploaded module may call. An allowlist: what is not known to be harmless is refused.
#pragma once

#include <string_view>

namespace slipway::inferencer {

// Whether aten::`name` computes tensors or numbers from its arguments and does nothing else. A trailing "_" (in place)
// is read as the plain operator.
[[nodiscard]] bool is_allowed_operator(std::string_view name);

// Whether prim::`name` is control flow, a container, a constant or a conversion.
[[nodiscard]] bool is_allowed_primitive(std::string_view name);

}  // namespace slipway::inferencer

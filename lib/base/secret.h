// Words that only some may know.
#pragma once

#include <string_view>

namespace slipway {

// Whether both are the same, in a time that says nothing about where they differ; only their lengths.
[[nodiscard]] bool same_secret(std::string_view one, std::string_view other);

}  // namespace slipway

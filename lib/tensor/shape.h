// Shapes: element counts that cannot overflow, and their text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"

namespace slipway {

using Shape = std::vector<std::int64_t>;

// Product of the dimensions; 1 for a scalar. Errors: kInvalidArgument (a negative dimension, a product over 2^62).
[[nodiscard]] Result<std::int64_t> element_count(std::span<const std::int64_t> shape);

// "[-1, 28, 28]".
[[nodiscard]] std::string to_string(std::span<const std::int64_t> shape);

// Whether a concrete shape fits a signature's, in which -1 is free.
[[nodiscard]] bool fits(std::span<const std::int64_t> shape, std::span<const std::int64_t> wanted);

}  // namespace slipway

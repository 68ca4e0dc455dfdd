// Changing one value of a JSON document by its path, for `--set fit.epochs=10`.
#pragma once

#include <boost/json.hpp>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::cli {

// Sets what `assignment`, "path=value", says. The path's steps are separated by dots; a number is an index of a list
// (its length: append); objects on the way are made where they are missing. The value is read as JSON when it is JSON
// and as a string otherwise.
// Errors: kInvalidArgument (no "=", an empty step, a step into a number or string, an index past the list's end).
[[nodiscard]] Result<void> set_value(boost::json::value& document, std::string_view assignment);

}  // namespace slipway::cli

// JSON documents as people write them: Boost.JSON prints 29.5 as 2.95E1, which is valid and unreadable.
#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace slipway {

// One line, keys in their order, numbers with the fewest digits that read back the same; 1.0 stays "1.0". What is no
// number (NaN, infinity) becomes null: JSON has none.
[[nodiscard]] std::string json_text(const boost::json::value& value);

}  // namespace slipway

// Reading fields out of the server's JSON, which may lack any of them.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>

namespace slipway::cli {

// The member `name` of an object; null when there is none.
[[nodiscard]] const boost::json::value& field(const boost::json::value& object, std::string_view name);

// A string as it is, a number as digits, anything else as "".
[[nodiscard]] std::string text_of(const boost::json::value& value);
[[nodiscard]] inline std::string text_of(const boost::json::value& object, std::string_view name) {
  return text_of(field(object, name));
}

// A number, or `otherwise`.
[[nodiscard]] double number_of(const boost::json::value& value, double otherwise = 0);
[[nodiscard]] inline double number_of(const boost::json::value& object, std::string_view name, double otherwise = 0) {
  return number_of(field(object, name), otherwise);
}

// A whole number of at least 0; anything else is 0.
[[nodiscard]] std::uint64_t count_of(const boost::json::value& object, std::string_view name);

}  // namespace slipway::cli

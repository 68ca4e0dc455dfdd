#include "cli/json_read.h"

#include <cmath>

#include "lib/base/json_text.h"

namespace slipway::cli {

const boost::json::value& field(const boost::json::value& object, std::string_view name) {
  static const boost::json::value kNull;
  const auto* found = object.is_object() ? object.get_object().if_contains(name) : nullptr;
  return found != nullptr ? *found : kNull;
}

std::string text_of(const boost::json::value& value) {
  if (const auto* text = value.if_string()) return std::string(*text);
  return value.is_number() ? json_text(value) : std::string();
}

double number_of(const boost::json::value& value, double otherwise) {
  if (const auto* real = value.if_double()) return *real;
  if (const auto* whole = value.if_int64()) return static_cast<double>(*whole);
  if (const auto* whole = value.if_uint64()) return static_cast<double>(*whole);
  return otherwise;
}

std::uint64_t count_of(const boost::json::value& object, std::string_view name) {
  const boost::json::value& value = field(object, name);
  if (const auto* whole = value.if_uint64()) return *whole;
  const double number = number_of(value);
  return number >= 1 && number < 1e18 ? static_cast<std::uint64_t>(number) : 0;
}

}  // namespace slipway::cli

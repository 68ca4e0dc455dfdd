#include "lib/keras/json_cursor.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <cmath>

#include "lib/keras/json_text.h"

namespace slipway::keras {
namespace {

namespace json = boost::json;

const json::value kNull;
const json::object kNoKeys;

std::optional<double> as_number(const json::value& value) {
  if (value.is_double()) return value.get_double();
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  return std::nullopt;
}

std::optional<std::int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  constexpr double kExact = 9007199254740992.0;  // 2^53: up to here a double says which integer it is
  if (value.is_double() && std::trunc(value.get_double()) == value.get_double() &&
      std::abs(value.get_double()) <= kExact) {
    return static_cast<std::int64_t>(value.get_double());
  }
  return std::nullopt;
}

std::string range_text(NumberRange range) {
  const bool bounded_above = range.max < std::numeric_limits<double>::max();
  if (range.min == std::numeric_limits<double>::lowest() && !bounded_above) return "a finite number";
  std::string text = std::format("a number {} {}", range.open_min ? "above" : "of at least", range.min);
  if (bounded_above) text += std::format(" and {} {}", range.open_max ? "below" : "at most", range.max);
  return text;
}

std::string range_text(IntegerRange range) {
  if (range.max == std::numeric_limits<std::int64_t>::max()) {
    if (range.min == std::numeric_limits<std::int64_t>::min()) return "an integer";
    return std::format("an integer of at least {}", range.min);
  }
  return std::format("an integer from {} to {}", range.min, range.max);
}

bool same(const json::value& a, const json::value& b) {
  const auto x = as_number(a);
  const auto y = as_number(b);
  if (x && y) return *x == *y;
  if (a.is_array() && b.is_array()) {
    return std::ranges::equal(a.get_array(), b.get_array(), [](const auto& l, const auto& r) { return same(l, r); });
  }
  return a == b;
}

bool is_off(const json::value& value) { return value.is_null() || (value.is_bool() && !value.get_bool()); }

}  // namespace

void Report::add(std::string path, Code code, std::string message) {
  if (first_) return;
  first_ = Error{.code = code, .message = std::move(message), .path = std::move(path)};
}

std::string describe(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return value.get_bool() ? "true" : "false";
    case json::kind::int64:
      return std::format("{}", value.get_int64());
    case json::kind::uint64:
      return std::format("{}", value.get_uint64());
    case json::kind::double_:
      return std::format("{}", value.get_double());
    case json::kind::string:
      return std::format("'{}'", printable(value.get_string()));
    case json::kind::array:
      return std::format("a list of {}", value.get_array().size());
    case json::kind::object:
      return "an object";
  }
  return "something else";
}

void Cursor::fail(Code code, std::string message) const { report_->add(path_, code, std::move(message)); }

std::string Cursor::text() const {
  if (value_->is_string()) return std::string(value_->get_string());
  fail(Code::kInvalidArgument, std::format("wanted a string, got {}", describe(*value_)));
  return {};
}

bool Cursor::boolean() const {
  if (value_->is_bool()) return value_->get_bool();
  fail(Code::kInvalidArgument, std::format("wanted true or false, got {}", describe(*value_)));
  return false;
}

std::int64_t Cursor::integer(IntegerRange range) const {
  const auto number = as_integer(*value_);
  if (number && *number >= range.min && *number <= range.max) return *number;
  fail(Code::kInvalidArgument, std::format("wanted {}, got {}", range_text(range), describe(*value_)));
  return range.min;
}

std::uint64_t Cursor::unsigned_integer() const {
  if (value_->is_uint64()) return value_->get_uint64();
  if (const auto number = as_integer(*value_); number && *number >= 0) return static_cast<std::uint64_t>(*number);
  fail(Code::kInvalidArgument, std::format("wanted an integer from 0 to {}, got {}",
                                           std::numeric_limits<std::uint64_t>::max(), describe(*value_)));
  return 0;
}

double Cursor::number(NumberRange range) const {
  const auto number = as_number(*value_);
  if (number && std::isfinite(*number) && (range.open_min ? *number > range.min : *number >= range.min) &&
      (range.open_max ? *number < range.max : *number <= range.max)) {
    return *number;
  }
  fail(Code::kInvalidArgument, std::format("wanted {}, got {}", range_text(range), describe(*value_)));
  return range.min;
}

std::vector<Cursor> Cursor::items() const {
  if (!value_->is_array()) {
    fail(Code::kInvalidArgument, std::format("wanted a list, got {}", describe(*value_)));
    return {};
  }
  std::vector<Cursor> cursors;
  cursors.reserve(value_->get_array().size());
  for (const json::value& item : value_->get_array()) {
    cursors.emplace_back(item, std::format("{}[{}]", path_, cursors.size()), *report_);
  }
  return cursors;
}

ObjectReader::ObjectReader(Cursor cursor) : cursor_(std::move(cursor)), object_(&kNoKeys) {
  if (cursor_.value().is_object()) {
    object_ = &cursor_.value().get_object();
  } else {
    cursor_.fail(Code::kInvalidArgument, std::format("wanted an object, got {}", describe(cursor_.value())));
  }
}

std::string ObjectReader::path_of(std::string_view key) const { return member_path(path(), key); }

bool ObjectReader::has(std::string_view key) const {
  const json::value* value = object_->if_contains(key);
  return value != nullptr && !value->is_null();
}

std::optional<Cursor> ObjectReader::child(std::string_view key) {
  read_.emplace_back(key);
  const json::value* value = object_->if_contains(key);
  if (value == nullptr || value->is_null()) return std::nullopt;
  return Cursor(*value, path_of(key), report());
}

Cursor ObjectReader::required(std::string_view key, std::string_view wanted) {
  if (auto found = child(key)) return *found;
  report().add(path_of(key), Code::kInvalidArgument, std::format("missing: wanted {}", wanted));
  return {kNull, path_of(key), report()};
}

std::string ObjectReader::text(std::string_view key, std::optional<std::string> fallback) {
  if (fallback && !has(key)) return read_.emplace_back(key), *fallback;
  return required(key, "a string").text();
}

bool ObjectReader::boolean(std::string_view key, std::optional<bool> fallback) {
  if (fallback && !has(key)) return read_.emplace_back(key), *fallback;
  return required(key, "true or false").boolean();
}

std::int64_t ObjectReader::integer(std::string_view key, IntegerRange range, std::optional<std::int64_t> fallback) {
  if (fallback && !has(key)) return read_.emplace_back(key), *fallback;
  return required(key, range_text(range)).integer(range);
}

double ObjectReader::number(std::string_view key, NumberRange range, std::optional<double> fallback) {
  if (fallback && !has(key)) return read_.emplace_back(key), *fallback;
  return required(key, range_text(range)).number(range);
}

void ObjectReader::pair(std::string_view key, IntegerRange range, std::int64_t (&out)[2],
                        std::optional<std::int64_t> fallback) {
  out[0] = out[1] = range.min;
  if (fallback && !has(key)) {
    read_.emplace_back(key);
    out[0] = out[1] = *fallback;
    return;
  }
  const Cursor cursor = required(key, "one integer or a list of two");
  if (!cursor.value().is_array()) {
    out[0] = out[1] = cursor.integer(range);
    return;
  }
  const auto items = cursor.items();
  if (items.size() != 2) {
    cursor.fail(Code::kInvalidArgument,
                std::format("wanted one integer or a list of two, got {}", describe(cursor.value())));
    return;
  }
  for (std::size_t i = 0; i < 2; ++i) out[i] = items[i].integer(range);
}

void ObjectReader::ignore(std::initializer_list<std::string_view> keys) {
  read_.insert(read_.end(), keys.begin(), keys.end());
}

void ObjectReader::only(std::string_view key, const json::value& neutral, std::string_view reason) {
  const auto cursor = child(key);
  if (!cursor || is_off(cursor->value()) || same(cursor->value(), neutral)) return;
  cursor->fail(Code::kUnsupported, std::format("{}; got {}", reason, describe(cursor->value())));
}

void ObjectReader::finish() {
  for (const auto& [key, value] : *object_) {
    const std::string_view name(key.data(), key.size());
    if (is_off(value) || std::ranges::find(read_, name) != read_.end()) continue;
    std::string known;
    for (auto one = read_.begin(); one != read_.end(); ++one) {
      if (std::find(read_.begin(), one, *one) == one) known += (known.empty() ? "" : ", ") + *one;
    }
    report().add(path_of(name), Code::kInvalidArgument,
                 std::format("unknown key, with {}; known here: {}", describe(value), known));
    return;
  }
}

}  // namespace slipway::keras

// Values of a JSON document together with their path, and objects whose keys must all be accounted for.
#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"

namespace slipway::keras {

// The first thing found wrong in a document; later findings are dropped, as they may only follow from it.
// Readers go on after a finding with values that are within their ranges.
class Report {
 public:
  void add(std::string path, Code code, std::string message);
  [[nodiscard]] bool failed() const { return first_.has_value(); }
  [[nodiscard]] Error take() { return std::move(*first_); }  // only when failed()

 private:
  std::optional<Error> first_;
};

struct NumberRange {
  double min = std::numeric_limits<double>::lowest();
  double max = std::numeric_limits<double>::max();
  bool open_min = false, open_max = false;  // the bound itself is outside
};

struct IntegerRange {
  std::int64_t min = std::numeric_limits<std::int64_t>::min();
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
};

// One value. Getters report kInvalidArgument at the value's path when it is of another kind or out of range, and then
// return a value within the range. Lifetime: the document and the report must outlive it.
class Cursor {
 public:
  Cursor(const boost::json::value& value, std::string path, Report& report)
      : value_(&value), path_(std::move(path)), report_(&report) {}

  [[nodiscard]] const boost::json::value& value() const { return *value_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] Report& report() const { return *report_; }

  [[nodiscard]] std::string text() const;
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] std::int64_t integer(IntegerRange range) const;  // 3.0 is taken as 3
  [[nodiscard]] std::uint64_t unsigned_integer() const;
  [[nodiscard]] double number(NumberRange range) const;
  // The elements of a list; empty when it is none.
  [[nodiscard]] std::vector<Cursor> items() const;

  void fail(Code code, std::string message) const;

 private:
  const boost::json::value* value_;
  std::string path_;
  Report* report_;
};

// "a list of 3", "'relu'", "7": what came, for messages.
[[nodiscard]] std::string describe(const boost::json::value& value);

// An object whose keys are read one by one. A null value counts as absent. finish() refuses what nobody asked for,
// unless it is null or false: what is off changes nothing.
class ObjectReader {
 public:
  // Reports kInvalidArgument when the value is no object; every key then is absent.
  explicit ObjectReader(Cursor cursor);

  [[nodiscard]] const std::string& path() const { return cursor_.path(); }
  [[nodiscard]] std::string path_of(std::string_view key) const;
  [[nodiscard]] Report& report() const { return cursor_.report(); }

  // Whether `key` is there with another value than null; does not count as reading it.
  [[nodiscard]] bool has(std::string_view key) const;
  [[nodiscard]] std::optional<Cursor> child(std::string_view key);
  // Reports kInvalidArgument when absent, and gives a null.
  [[nodiscard]] Cursor required(std::string_view key, std::string_view wanted);

  // Without `fallback` the key must be there.
  [[nodiscard]] std::string text(std::string_view key, std::optional<std::string> fallback = std::nullopt);
  [[nodiscard]] bool boolean(std::string_view key, std::optional<bool> fallback = std::nullopt);
  [[nodiscard]] std::int64_t integer(std::string_view key, IntegerRange range,
                                     std::optional<std::int64_t> fallback = std::nullopt);
  [[nodiscard]] double number(std::string_view key, NumberRange range, std::optional<double> fallback = std::nullopt);
  // One integer or a list of two, such as a kernel size.
  void pair(std::string_view key, IntegerRange range, std::int64_t (&out)[2], std::optional<std::int64_t> fallback);

  // Keys that change nothing here, whatever they hold.
  void ignore(std::initializer_list<std::string_view> keys);
  // A key that Keras has and Slipway has not: taken when null, false or `neutral`, else reported as kUnsupported.
  void only(std::string_view key, const boost::json::value& neutral, std::string_view reason);

  // Reports the first key that was not read and holds something, as kInvalidArgument with the keys that are known.
  void finish();

 private:
  Cursor cursor_;
  const boost::json::object* object_;
  std::vector<std::string> read_;
};

}  // namespace slipway::keras

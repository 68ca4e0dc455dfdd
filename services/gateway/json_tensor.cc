#include "services/gateway/json_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdfloat>
#include <utility>

namespace slipway::gateway {
namespace {

std::unexpected<Error> too_large(std::size_t max_bytes) {
  return fail(Code::kTooLarge, std::format("a tensor of more than {} bytes; send fewer rows a request", max_bytes));
}

template <class Int>
std::unexpected<Error> not_in_range(std::size_t at, std::string_view text, DType dtype) {
  return fail(Code::kInvalidArgument,
              std::format("JSON error at byte {}: {} is not a whole number from {} to {}, which {} takes", at,
                          text.substr(0, 40), std::numeric_limits<Int>::min(), std::numeric_limits<Int>::max(),
                          dtype_name(dtype)));
}

// One scalar at the reader's position, appended to `values`. Short numbers, most of what is sent, take a path of their
// own: they are exact there.
template <class T>
class ScalarParser {
 public:
  ScalarParser(std::vector<T>& values, DType dtype) : values_(values), dtype_(dtype) {}

  Result<void> operator()(JsonReader& json) {
    if (dtype_ == DType::kB8) {
      auto flag = json.boolean();
      if (!flag) return std::unexpected(std::move(flag).error());
      values_.push_back(static_cast<T>(*flag ? 1 : 0));
      return {};
    }
    const std::string_view text = json.text();
    if (json.position() >= text.size()) return json.wrong("a number");
    const char* const end = text.data() + text.size();
    const char* at = text.data() + json.position();
    ShortNumber short_number;
    const bool is_short = short_number.read(at, end);
    const char after = at < end ? *at : ' ';
    const bool ends = after == ',' || after == ']' || after == ' ' || after == '}' || after == '\n';
    if (is_short && ends && store(short_number)) {
      json.seek(static_cast<std::size_t>(at - text.data()));
      return {};
    }
    const std::size_t begin = json.position();
    auto number = json.number();
    if (!number) return std::unexpected(std::move(number).error());
    return parse(*number, begin);
  }

  // As many short numbers, each with the comma after it, as follow each other, until `values` has `most` items: what
  // bodies mostly consist of, without a Result for each. What is left to the general path is left where it is.
  std::int64_t take_run(JsonReader& json, std::size_t most) {
    if (dtype_ == DType::kB8) return 0;
    const std::string_view text = json.text();
    const char* const end = text.data() + text.size();
    const char* at = text.data() + json.position();
    const std::size_t before = values_.size();
    ShortNumber number;
    while (values_.size() < most) {
      const char* next = at;
      while (next < end && *next == ' ') ++next;
      if (!number.read(next, end) || next == end || *next != ',' || !store(number)) break;
      at = next + 1;
    }
    json.seek(static_cast<std::size_t>(at - text.data()));
    return static_cast<std::int64_t>(values_.size() - before);
  }

  Result<void> parse(std::string_view number, std::size_t begin) {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, std::uint16_t>) {
      using Parsed = std::conditional_t<std::is_same_v<T, double>, double, float>;
      Parsed value = 0;
      if (number.ends_with("NaN")) {
        value = std::numeric_limits<Parsed>::quiet_NaN();
      } else if (number.ends_with("Infinity")) {
        value =
            number.front() == '-' ? -std::numeric_limits<Parsed>::infinity() : std::numeric_limits<Parsed>::infinity();
      } else {
        const auto parsed = std::from_chars(number.data(), number.data() + number.size(), value);
        if (parsed.ec == std::errc::result_out_of_range) {
          // Too small is zero, as everywhere; too large is an error.
          if (magnitude(number) > 0) {
            return fail(Code::kInvalidArgument, std::format("JSON error at byte {}: {} is too large for {}", begin,
                                                            number.substr(0, 40), dtype_name(dtype_)));
          }
          value = number.front() == '-' ? -Parsed(0) : Parsed(0);
        } else if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size()) {
          return fail(Code::kInvalidArgument,
                      std::format("JSON error at byte {}: '{}' is not a number", begin, number.substr(0, 40)));
        }
      }
      push_float(value);
      return {};
    } else {
      T value = 0;
      const auto parsed = std::from_chars(number.data(), number.data() + number.size(), value);
      if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size())
        return not_in_range<T>(begin, number, dtype_);
      values_.push_back(value);
      return {};
    }
  }

 private:
  // The power of ten below which a number of JSON is: 2 for 99.5, 0 for 0.5, -2 for 0.005.
  static std::int64_t magnitude(std::string_view number) {
    constexpr std::int64_t kFar = std::int64_t{1} << 40;
    std::int64_t exponent = 0;
    if (const std::size_t e = number.find_first_of("eE"); e != std::string_view::npos) {
      std::string_view text = number.substr(e + 1);
      if (text.starts_with('+')) text.remove_prefix(1);
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), exponent);
      if (parsed.ec == std::errc::result_out_of_range || exponent > kFar || exponent < -kFar)
        exponent = text.starts_with('-') ? -kFar : kFar;
      number = number.substr(0, e);
    }
    if (number.starts_with('-')) number.remove_prefix(1);
    const std::size_t point = std::min(number.find('.'), number.size());
    const std::size_t first = number.find_first_of("123456789");
    if (first == std::string_view::npos) return -kFar;
    // Digits before the point count up, zeros after it count down.
    return exponent +
           (first < point ? static_cast<std::int64_t>(point - first) : -static_cast<std::int64_t>(first - point - 1));
  }

  // A number of at most seven digits: `digits` / 10^`decimals`, both exact as floats, so that their quotient is the
  // float nearest to the number (as is the one of doubles).
  struct ShortNumber {
    std::uint32_t digits = 0;
    std::uint32_t decimals = 0;
    bool negative = false;

    // The one at `at`, which moves behind it. False: another kind of number, or none.
    [[gnu::always_inline]] bool read(const char*& at, const char* end) {
      constexpr std::ptrdiff_t kMost = 7;
      const auto digit_here = [&] { return at == end ? 10U : static_cast<unsigned>(*at) - '0'; };
      negative = at != end && *at == '-';
      if (negative) ++at;
      const char* const first = at;
      std::uint32_t value = 0;
      unsigned digit = digit_here();
      for (; digit <= 9 && at - first < kMost; digit = digit_here()) {
        value = value * 10 + digit;
        ++at;
      }
      decimals = 0;
      if (at == first || (*first == '0' && at - first > 1)) return false;
      if (at != end && *at == '.') {
        const char* const point = at++;
        for (digit = digit_here(); digit <= 9 && at - first <= kMost; digit = digit_here()) {
          value = value * 10 + digit;
          ++at;
        }
        decimals = static_cast<std::uint32_t>(at - point - 1);
        if (decimals == 0) return false;
      }
      digits = value;
      // More digits, or an exponent: more than is looked at here.
      return digit > 9 && (at == end || (*at != 'e' && *at != 'E'));
    }
  };

  // False: not a value of T's.
  bool store(const ShortNumber& number) {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, std::uint16_t>) {
      using Parsed = std::conditional_t<std::is_same_v<T, double>, double, float>;
      constexpr std::array<Parsed, 8> kPowers{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
      auto value = static_cast<Parsed>(number.digits);
      if (number.decimals > 0) value /= kPowers[number.decimals];
      push_float(number.negative ? -value : value);
      return true;
    } else {
      const auto whole = static_cast<std::int64_t>(number.digits);
      const std::int64_t value = number.negative ? -whole : whole;
      if (number.decimals > 0 || value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max())
        return false;
      values_.push_back(static_cast<T>(value));
      return true;
    }
  }

  template <class F>
  void push_float(F value) {
    if constexpr (std::is_same_v<T, std::uint16_t>) {
      values_.push_back(dtype_ == DType::kF16 ? std::bit_cast<std::uint16_t>(static_cast<std::float16_t>(value))
                                              : std::bit_cast<std::uint16_t>(static_cast<std::bfloat16_t>(value)));
    } else {
      values_.push_back(static_cast<T>(value));
    }
  }

  std::vector<T>& values_;
  const DType dtype_;
};

// Reads one nested value; the first scalar settles the rank, each array's first end settles its dimension.
template <class T>
class NestedParser {
 public:
  NestedParser(JsonReader& json, ScalarParser<T> scalar, const std::vector<T>& values, std::size_t max_bytes)
      : json_(json), scalar_(scalar), values_(values), max_bytes_(max_bytes) {}

  Result<void> value(std::size_t depth) {
    const char next = json_.peek();
    if (next != '[') {
      if (rank_ < 0) rank_ = static_cast<std::int64_t>(depth);
      if (static_cast<std::int64_t>(depth) != rank_) return ragged("a number where an array was wanted");
      return scalar_(json_);
    }
    if (rank_ >= 0 && static_cast<std::int64_t>(depth) >= rank_) return ragged("an array where a number was wanted");
    if (depth >= TensorBuilder::kMaxRank) {
      return fail(Code::kInvalidArgument, std::format("JSON error at byte {}: a tensor nested deeper than {}",
                                                      json_.position(), TensorBuilder::kMaxRank));
    }
    if (shape_.size() <= depth) shape_.push_back(-1);
    if (!json_.take('[')) return json_.wrong("'['");
    std::int64_t count = 0;
    if (!json_.take(']')) {
      while (true) {
        if (auto taken = value(depth + 1); !taken) return taken;
        ++count;
        if (values_.size() > max_bytes_ / sizeof(T)) return too_large(max_bytes_);
        if (json_.take(',')) {
          if (rank_ == static_cast<std::int64_t>(depth) + 1) count += scalar_.take_run(json_, max_bytes_ / sizeof(T));
          continue;
        }
        if (json_.take(']')) break;
        return json_.wrong("',' or ']'");
      }
    } else if (rank_ < 0) {
      rank_ = static_cast<std::int64_t>(depth) + 1;
    }
    if (shape_[depth] < 0) shape_[depth] = count;
    if (shape_[depth] != count) return ragged(std::format("{} elements where {} were wanted", count, shape_[depth]));
    return {};
  }

  [[nodiscard]] Shape& shape() { return shape_; }

 private:
  std::unexpected<Error> ragged(std::string_view what) {
    return fail(Code::kInvalidArgument,
                std::format("JSON error at byte {}: the arrays are ragged: {}", json_.position(), what));
  }

  JsonReader& json_;
  ScalarParser<T> scalar_;
  const std::vector<T>& values_;
  const std::size_t max_bytes_;
  Shape shape_;
  std::int64_t rank_ = -1;
};

template <class T>
void append_decimal(std::string& out, T value) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(value)) {
      out += "NaN";
      return;
    }
    if (std::isinf(value)) {
      out += value < 0 ? "-Infinity" : "Infinity";
      return;
    }
  }
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  const std::string_view written(text, static_cast<std::size_t>(end - text));
  out += written;
  // Readers with types would take "1" for an integer.
  if constexpr (std::is_floating_point_v<T>) {
    if (written.find_first_of(".e") == std::string_view::npos) out += ".0";
  }
}

template <class T>
T load(const std::byte* item) {
  T value;
  std::memcpy(&value, item, sizeof value);
  return value;
}

// The most that a number takes, with a comma.
std::uint64_t printed_item_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 25;
    case DType::kI64:
      return 21;
    case DType::kF32:
    case DType::kF16:
    case DType::kBf16:
      return 16;
    case DType::kI32:
      return 12;
    case DType::kI16:
      return 7;
    case DType::kI8:
    case DType::kU8:
      return 5;
    case DType::kB8:
      return 6;
  }
  return 25;
}

// `at` advances over what was printed.
void append_dimensions(std::string& out, const TensorSpec& spec, std::size_t depth, const std::byte*& at) {
  if (depth == spec.shape.size()) {
    append_number(out, spec.dtype, at);
    at += item_size(spec.dtype);
    return;
  }
  out += '[';
  for (std::int64_t i = 0; i < spec.shape[depth]; ++i) {
    if (i > 0) out += ',';
    append_dimensions(out, spec, depth + 1, at);
  }
  out += ']';
}

}  // namespace

TensorBuilder::TensorBuilder(DType dtype, std::size_t max_bytes) : dtype_(dtype), max_bytes_(max_bytes) {
  switch (dtype) {
    case DType::kF32:
      values_ = std::vector<float>();
      break;
    case DType::kF64:
      values_ = std::vector<double>();
      break;
    case DType::kI64:
      values_ = std::vector<std::int64_t>();
      break;
    case DType::kI32:
      values_ = std::vector<std::int32_t>();
      break;
    case DType::kI16:
      values_ = std::vector<std::int16_t>();
      break;
    case DType::kI8:
      values_ = std::vector<std::int8_t>();
      break;
    case DType::kU8:
    case DType::kB8:
      values_ = std::vector<std::uint8_t>();
      break;
    case DType::kF16:
    case DType::kBf16:
      values_ = std::vector<std::uint16_t>();
      break;
  }
}

Result<void> TensorBuilder::read_value(JsonReader& json) {
  return std::visit(
      [&]<class T>(std::vector<T>& values) -> Result<void> {
        // Two bytes of JSON are the least a number takes; a guess at four saves most of the growing.
        if (values.empty())
          values.reserve(std::min((json.text().size() - json.position()) / 4 + 16, max_bytes_ / sizeof(T)));
        NestedParser<T> parser(json, ScalarParser<T>(values, dtype_), values, max_bytes_);
        const std::size_t begin = json.position();
        if (auto read = parser.value(0); !read) return read;
        if (rows_ > 0 && parser.shape() != shape_) {
          return fail(Code::kInvalidArgument,
                      std::format("JSON error at byte {}: a row of shape {} after rows of shape {}", begin,
                                  to_string(parser.shape()), to_string(shape_)));
        }
        shape_ = std::move(parser.shape());
        return {};
      },
      values_);
}

Result<void> TensorBuilder::read(JsonReader& json) { return read_value(json); }

Result<void> TensorBuilder::read_row(JsonReader& json) {
  if (rows_ < 0) rows_ = 0;
  if (auto read = read_value(json); !read) return read;
  ++rows_;
  const std::size_t bytes = std::visit([](const auto& values) { return values.size() * sizeof values[0]; }, values_);
  if (bytes > max_bytes_) return too_large(max_bytes_);
  return {};
}

Result<void> TensorBuilder::append(std::string_view number) {
  JsonReader json(number);
  if (json.peek() == '\0') return fail(Code::kInvalidArgument, "an empty text where a number was wanted");
  auto read =
      std::visit([&]<class T>(std::vector<T>& values) { return ScalarParser<T>(values, dtype_)(json); }, values_);
  if (read) read = json.end();
  if (!read)
    return fail(Code::kInvalidArgument,
                std::format("'{}' is not a number that {} takes", number.substr(0, 40), dtype_name(dtype_)));
  shape_ = {std::visit([](const auto& values) { return static_cast<std::int64_t>(values.size()); }, values_)};
  return {};
}

Tensor TensorBuilder::finish(std::string name) {
  Tensor tensor{.spec = {.name = std::move(name), .dtype = dtype_, .shape = std::move(shape_)}, .bytes = {}};
  if (rows_ >= 0) tensor.spec.shape.insert(tensor.spec.shape.begin(), rows_);
  tensor.bytes = std::visit([](auto& values) { return Frame::of(std::move(values)); }, values_);
  return tensor;
}

double item_as_double(DType dtype, const std::byte* item) {
  switch (dtype) {
    case DType::kF32:
      return load<float>(item);
    case DType::kF64:
      return load<double>(item);
    case DType::kF16:
      return static_cast<float>(std::bit_cast<std::float16_t>(load<std::uint16_t>(item)));
    case DType::kBf16:
      return static_cast<float>(std::bit_cast<std::bfloat16_t>(load<std::uint16_t>(item)));
    case DType::kI64:
      return static_cast<double>(load<std::int64_t>(item));
    case DType::kI32:
      return load<std::int32_t>(item);
    case DType::kI16:
      return load<std::int16_t>(item);
    case DType::kI8:
      return load<std::int8_t>(item);
    case DType::kU8:
    case DType::kB8:
      return load<std::uint8_t>(item);
  }
  return 0;
}

void append_number(std::string& out, DType dtype, const std::byte* item) {
  switch (dtype) {
    case DType::kF32:
      return append_decimal(out, load<float>(item));
    case DType::kF64:
      return append_decimal(out, load<double>(item));
    case DType::kF16:
    case DType::kBf16:
      return append_decimal(out, static_cast<float>(item_as_double(dtype, item)));
    case DType::kI64:
      return append_decimal(out, load<std::int64_t>(item));
    case DType::kI32:
      return append_decimal(out, load<std::int32_t>(item));
    case DType::kI16:
      return append_decimal(out, load<std::int16_t>(item));
    case DType::kI8:
      return append_decimal(out, static_cast<int>(load<std::int8_t>(item)));
    case DType::kU8:
      return append_decimal(out, static_cast<int>(load<std::uint8_t>(item)));
    case DType::kB8:
      out += load<std::uint8_t>(item) != 0 ? "true" : "false";
  }
}

void append_nested(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes) {
  const std::byte* at = bytes.data();
  append_dimensions(out, spec, 0, at);
}

void append_flat(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes) {
  const std::size_t size = item_size(spec.dtype);
  out += '[';
  for (std::size_t at = 0; at + size <= bytes.size(); at += size) {
    if (at > 0) out += ',';
    append_number(out, spec.dtype, bytes.data() + at);
  }
  out += ']';
}

void append_row(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes, std::int64_t row) {
  const std::int64_t rows = spec.shape.empty() ? 1 : spec.shape.front();
  const std::byte* at = bytes.data() + bytes.size() / static_cast<std::size_t>(rows) * static_cast<std::size_t>(row);
  append_dimensions(out, spec, std::min<std::size_t>(1, spec.shape.size()), at);
}

std::uint64_t printed_bytes(const TensorSpec& spec) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  const auto times = [](std::uint64_t a, std::uint64_t b) { return b != 0 && a > kMost / b ? kMost : a * b; };
  const auto plus = [](std::uint64_t a, std::uint64_t b) { return a > kMost - b ? kMost : a + b; };
  std::uint64_t total = 0;
  std::uint64_t count = 1;  // arrays of a depth, at last numbers
  for (const std::int64_t size : spec.shape) {
    total = plus(total, times(count, 3));  // two brackets and a comma each
    count = times(count, static_cast<std::uint64_t>(std::max<std::int64_t>(size, 0)));
  }
  return plus(total, times(count, printed_item_bytes(spec.dtype)));
}

Result<void> check_size(const TensorSpec& spec, std::span<const std::byte> bytes) {
  if (!is_known(spec.dtype)) {
    return fail(Code::kInternal, std::format("the inferencer answered output '{}' of dtype {}, which this release does "
                                             "not know: not a prediction",
                                             spec.name, std::to_underlying(spec.dtype)));
  }
  const auto count = element_count(spec.shape);
  if (count && static_cast<std::size_t>(*count) * item_size(spec.dtype) == bytes.size()) return {};
  return fail(Code::kInternal, std::format("the inferencer answered {} bytes for output '{}' of {} {}", bytes.size(),
                                           spec.name, dtype_name(spec.dtype), to_string(spec.shape)));
}

}  // namespace slipway::gateway

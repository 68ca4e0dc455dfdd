// Tensors from JSON and to JSON in a single pass: numbers go straight into the bytes that travel. No I/O in here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "lib/base/error.h"
#include "lib/tensor/dtype.h"
#include "lib/tensor/shape.h"
#include "lib/wire/frame.h"
#include "schema/limits.h"
#include "services/gateway/json_reader.h"

namespace slipway::gateway {

inline constexpr std::size_t kMaxTensorBytes = kMaxMessageBytes;  // unless set otherwise

// A concrete shape and its bytes, row-major and little-endian.
struct Tensor {
  TensorSpec spec;
  Frame bytes;
};

// Collects one tensor of a known dtype from one JSON value, or from several that are its rows.
// Integers are taken for floating types, not the reverse; numbers out of an integer type's range are refused; the
// nesting gives the shape, ragged nesting is refused; f16 and bf16 are rounded from f32.
class TensorBuilder {
 public:
  static constexpr std::size_t kMaxRank = 16;

  // `max_bytes`: the most that the tensor may have.
  explicit TensorBuilder(DType dtype, std::size_t max_bytes = kMaxTensorBytes);

  // Takes the next value as the whole tensor. Errors, with the byte where it is: kInvalidArgument (not a tensor of that
  // dtype, ragged, nested deeper than kMaxRank), kTooLarge (over max_bytes).
  [[nodiscard]] Result<void> read(JsonReader& json);

  // Takes the next value as one more row. Errors: as read(); kInvalidArgument (another shape than the rows before).
  [[nodiscard]] Result<void> read_row(JsonReader& json);

  // Appends one number given as text, e.g. from a URL. Errors: as read().
  [[nodiscard]] Result<void> append(std::string_view number);

  [[nodiscard]] std::int64_t rows() const { return rows_; }

  // The tensor; the builder is then empty. With rows: their count leads the shape. With append(): one dimension.
  [[nodiscard]] Tensor finish(std::string name);

 private:
  // Floats of 16 bits are kept as bits.
  using Values = std::variant<std::vector<float>, std::vector<double>, std::vector<std::int64_t>,
                              std::vector<std::int32_t>, std::vector<std::int16_t>, std::vector<std::int8_t>,
                              std::vector<std::uint8_t>, std::vector<std::uint16_t>>;
  [[nodiscard]] Result<void> read_value(JsonReader& json);

  const DType dtype_;
  const std::size_t max_bytes_;
  Values values_;
  Shape shape_;             // of the value, or of a row
  std::int64_t rows_ = -1;  // -1: not built from rows
};

// Appends a number as JSON: shortest for floats, always with a point or an exponent; NaN and infinities as the bare
// tokens that TensorFlow and Triton use.
void append_number(std::string& out, DType dtype, const std::byte* item);

// Appends the tensor nested by its shape, or flat. `bytes` hold what the shape says.
void append_nested(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes);
void append_flat(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes);

// The most characters that append_nested() may take for a tensor of that dtype and shape, brackets and commas of empty
// dimensions too; the largest number there is when it would be more than that.
[[nodiscard]] std::uint64_t printed_bytes(const TensorSpec& spec);

// Row `row` of the first dimension, nested by the others.
void append_row(std::string& out, const TensorSpec& spec, std::span<const std::byte> bytes, std::int64_t row);

// The element as a double; 16-bit floats are widened.
[[nodiscard]] double item_as_double(DType dtype, const std::byte* item);

// Whether a worker's answer is what it says it is. Errors: kInternal (bytes and shape differ, a dtype that this release
// does not know).
[[nodiscard]] Result<void> check_size(const TensorSpec& spec, std::span<const std::byte> bytes);

}  // namespace slipway::gateway

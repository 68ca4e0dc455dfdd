// The numbers of a data set for training, from the bytes of its files. Nothing is copied that can be viewed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::dataset {

// A pair of IDX files. `pixels` and `labels` view the bytes given: u8, [rows, *row_shape], row-major, and [rows].
struct ImageSet {
  std::int64_t rows = 0;
  std::vector<std::int64_t> row_shape;  // of one image: {28, 28}
  std::span<const std::uint8_t> pixels;
  std::span<const std::uint8_t> labels;
};

// Errors: kInvalidArgument (damaged, or the two do not belong together), kUnsupported (elements other than u8).
[[nodiscard]] Result<ImageSet> read_images(std::span<const std::byte> images, std::span<const std::byte> labels);

struct Table {
  std::int64_t rows = 0;
  std::vector<std::string> features;  // names, in the order of the values
  std::vector<float> values;          // [rows, features], row-major
  std::vector<float> target;          // [rows]; empty for a text target
  std::vector<std::int64_t> labels;   // [rows], of a text target: the class index; empty for numbers
  std::vector<std::string> classes;   // of a text target, sorted; empty for numbers
};

// Reads the columns named, in one pass over the bytes; `features` empty: every column but the target, in file order.
// `columns` and `rows` are what inspect found in this very file.
// Errors: kInvalidArgument (an unknown or repeated column, the target among the features, text as a feature, or a file
// that is not what `columns` and `rows` say), kTooLarge (a limit of csv.h).
[[nodiscard]] Result<Table> read_table(std::span<const std::byte> csv, const std::vector<Column>& columns,
                                       std::uint64_t rows, const std::string& target,
                                       const std::vector<std::string>& features);

}  // namespace slipway::dataset

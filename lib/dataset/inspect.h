// What is in the files of a data set: format, sizes, columns, classes, and a digest of the content.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::dataset {

// The names under which an IDX data set's files are stored.
inline constexpr std::string_view kTrainImages = "train-images-idx3-ubyte";
inline constexpr std::string_view kTrainLabels = "train-labels-idx1-ubyte";
inline constexpr std::string_view kTestImages = "t10k-images-idx3-ubyte";
inline constexpr std::string_view kTestLabels = "t10k-labels-idx1-ubyte";

// A file's decompressed bytes, in order.
class ByteReader {
 public:
  virtual ~ByteReader() = default;
  // The next piece, of any size; it lives until the next call. Empty: the end.
  [[nodiscard]] virtual Result<std::span<const std::byte>> next() = 0;
};

// Bytes that are in memory already; they must outlive the reader.
[[nodiscard]] std::unique_ptr<ByteReader> read_from(std::span<const std::byte> bytes);

struct InputFile {
  std::string name;  // a path before it is cut off; ".gz" has been cut off already
  std::unique_ptr<ByteReader> bytes;
  Digest digest = {};  // SHA-256 of the bytes when the caller has it, so that it need not be computed; else empty
};

// Reads every file once and checks it. Fills format, digest, rows, test_rows, row_shape, dtype, classes, columns,
// size_bytes, and `files` (name, size_bytes and digest; the train files before the test files); the rest is the
// registry's to give. `row_shape` of a table is {number of columns}. The digest covers what the files hold and which
// is which, not their compression, their order or a table's file name. Memory is bounded by the reader's pieces.
// Errors, naming the file: kInvalidArgument (not a data set, a file missing or unknown, damaged or contradictory
// content), kTooLarge (a limit of csv.h), kUnsupported (IDX elements other than u8), and the readers' own.
[[nodiscard]] Result<Dataset> inspect(std::vector<InputFile> files);

}  // namespace slipway::dataset

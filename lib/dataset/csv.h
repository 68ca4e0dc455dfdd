// CSV with a header row (RFC 4180, UTF-8), read piece by piece, and what its columns hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::dataset {

inline constexpr std::size_t kMaxCsvColumns = 10'000;
inline constexpr std::size_t kMaxCsvCellBytes = 1 << 20;
inline constexpr std::size_t kMaxCsvRowBytes = 8 << 20;
inline constexpr std::size_t kMaxCategories = 1'000;        // different texts of one column
inline constexpr std::size_t kMaxTableTextBytes = 1 << 20;  // column names and categories of one table

// A cell as a number that fits f32. Errors: kInvalidArgument (something else, nan, infinite, outside the range); the
// message is the cell with what is wrong: "'abc' is not a number".
[[nodiscard]] Result<double> parse_number(std::string_view cell);

// Splits CSV into rows. Unquoted cells lose the blanks around them; blank lines are skipped; a byte order mark at the
// start is too. After an error the object is spent. Threads: not thread-safe.
class CsvRows {
 public:
  // Gets each row in order; `number` is 0 for the header, then counts data rows from 1. Cells live until it returns.
  using OnRow = std::function<Result<void>(std::uint64_t number, const std::vector<std::string>& cells)>;

  explicit CsvRows(OnRow on_row);
  ~CsvRows();
  CsvRows(CsvRows&&) noexcept;
  CsvRows& operator=(CsvRows&&) noexcept;

  // Errors: kInvalidArgument (misplaced quotes, not UTF-8), kTooLarge (over kMaxCsvCellBytes, kMaxCsvRowBytes
  // or kMaxCsvColumns), each naming the row; and the handler's own.
  [[nodiscard]] Result<void> push(std::span<const std::byte> piece);
  // The file has ended. Errors: as push; kInvalidArgument (inside quotes).
  [[nodiscard]] Result<void> finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Checks a table and describes its columns: a column is numbers when its first data cell is one, else text. Memory does
// not grow with the number of rows. Threads: not thread-safe.
class TableScan {
 public:
  TableScan();
  ~TableScan();
  TableScan(TableScan&&) noexcept;
  TableScan& operator=(TableScan&&) noexcept;

  // Errors: as CsvRows; kInvalidArgument (an empty or repeated column name, a row with another number of cells, an
  // empty cell, a cell of a number column that is no finite number, more than kMaxCategories texts in a column, no data
  // rows), kTooLarge (over kMaxTableTextBytes). Messages name row (from 1, the header not counted), column and cell.
  [[nodiscard]] Result<void> push(std::span<const std::byte> piece);
  [[nodiscard]] Result<void> finish();

  // After finish().
  [[nodiscard]] std::uint64_t rows() const;
  [[nodiscard]] const std::vector<Column>& columns() const;  // in file order

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slipway::dataset

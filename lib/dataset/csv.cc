#include "lib/dataset/csv.h"

#include <csv.h>

#include <algorithm>
#include <array>
#include <boost/nowide/utf/utf.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <format>
#include <limits>
#include <set>

namespace slipway::dataset {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;  // between two looks at how large a cell has grown
constexpr std::size_t kShownBytes = 40;

bool is_utf8(std::string_view text) {
  using Utf8 = boost::nowide::utf::utf_traits<char>;
  for (const char *at = text.data(), *end = at + text.size(); at != end;) {
    const auto point = Utf8::decode(at, end);
    if (point == boost::nowide::utf::illegal || point == boost::nowide::utf::incomplete) return false;
  }
  return true;
}

// A cell as an error shows it: cut between characters when it is long.
std::string shown(std::string_view cell) {
  if (cell.size() <= kShownBytes) return std::string(cell);
  std::size_t end = kShownBytes;
  while (end > 0 && (static_cast<unsigned char>(cell[end]) & 0xC0) == 0x80) --end;
  return std::string(cell.substr(0, end)) + "...";
}

constexpr std::string_view kNoNumber = "is not a number";

// What is wrong with `cell` as a number; empty: nothing.
std::string_view read_number(std::string_view cell, double& value) {
  if (cell.size() > 1 && cell[0] == '+' && cell[1] != '-') cell.remove_prefix(1);
  const char* const cell_end = cell.data() + cell.size();
  const auto [end, error] = std::from_chars(cell.data(), cell_end, value);
  if (end != cell_end || error == std::errc::invalid_argument) return kNoNumber;
  if (error == std::errc::result_out_of_range) {
    // Too small to tell from zero is no fault, and from_chars does not say which of the two it was.
    value = std::strtod(std::string(cell).c_str(), nullptr);
  }
  if (!std::isfinite(value)) return "is not a finite number";
  if (std::abs(value) > std::numeric_limits<float>::max()) return "is outside the range of f32";
  return {};
}

std::string row_name(std::uint64_t number) {
  return number == 0 ? std::string("the header") : std::format("row {}", number);
}

}  // namespace

Result<double> parse_number(std::string_view cell) {
  double value = 0;
  const auto fault = read_number(cell, value);
  if (fault.empty()) return value;
  return fail(Code::kInvalidArgument, std::format("'{}' {}", shown(cell), fault));
}

// --- CsvRows ---

struct CsvRows::State {
  explicit State(OnRow handler) : on_row(std::move(handler)) {
    csv_init(&parser, CSV_STRICT | CSV_STRICT_FINI);
    csv_set_blk_size(&parser, 4096);
  }
  ~State() { csv_free(&parser); }

  csv_parser parser{};
  OnRow on_row;
  std::vector<std::string> cells;  // its first `used` are this row's
  std::size_t used = 0;
  std::size_t row_bytes = 0;
  std::uint64_t next_row = 0;
  std::size_t mark_bytes = 0;  // of the byte order mark seen so far; 3 or more: the start is behind us
  Result<void> failed;

  void cell(const char* text, std::size_t size) {
    if (!failed) return;
    const std::string_view value(text, size);
    if (used == kMaxCsvColumns) {
      failed = fail(Code::kTooLarge,
                    std::format("{} has more than {} cells, which is the limit", row_name(next_row), kMaxCsvColumns));
    } else if (size > kMaxCsvCellBytes) {
      failed = too_long();
    } else if (row_bytes += size; row_bytes > kMaxCsvRowBytes) {
      failed = fail(Code::kTooLarge,
                    std::format("{} has more than {} bytes, which is the limit", row_name(next_row), kMaxCsvRowBytes));
    } else if (!is_utf8(value)) {
      failed = fail(Code::kInvalidArgument, std::format("{}, cell {} is not UTF-8", row_name(next_row), used + 1));
    } else {
      if (used == cells.size()) cells.emplace_back();
      cells[used++].assign(value);
    }
  }

  void row_end() {
    if (!failed) return;
    cells.resize(used);
    failed = on_row(next_row++, cells);
    used = 0;
    row_bytes = 0;
  }

  [[nodiscard]] Result<void> too_long() const {
    return fail(Code::kTooLarge, std::format("{}, cell {} has more than {} bytes, which is the limit",
                                             row_name(next_row), used + 1, kMaxCsvCellBytes));
  }

  static void on_cell(void* text, std::size_t size, void* state) {
    static_cast<State*>(state)->cell(static_cast<const char*>(text), size);
  }
  static void on_end(int, void* state) { static_cast<State*>(state)->row_end(); }

  Result<void> parse(std::span<const std::byte> bytes) {
    while (!bytes.empty() && failed) {
      const auto piece = bytes.first(std::min(bytes.size(), kPieceBytes));
      bytes = bytes.subspan(piece.size());
      if (csv_parse(&parser, piece.data(), piece.size(), &on_cell, &on_end, this) != piece.size() && failed) {
        if (csv_error(&parser) == CSV_EPARSE) {
          failed = fail(Code::kInvalidArgument,
                        std::format("{}, cell {}: a quote inside an unquoted cell, or text after a closing quote",
                                    row_name(next_row), used + 1));
        } else {
          failed = fail(Code::kInternal, std::string("libcsv: ") + csv_strerror(csv_error(&parser)));
        }
      }
      if (failed && parser.entry_pos > kMaxCsvCellBytes) failed = too_long();
    }
    return failed;
  }
};

CsvRows::CsvRows(OnRow on_row) : state_(std::make_unique<State>(std::move(on_row))) {}
CsvRows::~CsvRows() = default;
CsvRows::CsvRows(CsvRows&&) noexcept = default;
CsvRows& CsvRows::operator=(CsvRows&&) noexcept = default;

Result<void> CsvRows::push(std::span<const std::byte> piece) {
  constexpr std::array kMark{std::byte{0xEF}, std::byte{0xBB}, std::byte{0xBF}};
  while (state_->mark_bytes < kMark.size() && !piece.empty()) {
    if (piece.front() == kMark[state_->mark_bytes]) {
      ++state_->mark_bytes;
      piece = piece.subspan(1);
      continue;
    }
    // No mark after all: what was taken for its start is text.
    const auto taken = std::span(kMark).first(state_->mark_bytes);
    state_->mark_bytes = kMark.size();
    if (auto parsed = state_->parse(taken); !parsed) return parsed;
  }
  return state_->parse(piece);
}

Result<void> CsvRows::finish() {
  if (!state_->failed) return state_->failed;
  if (csv_fini(&state_->parser, &State::on_cell, &State::on_end, state_.get()) != 0 && state_->failed) {
    state_->failed = fail(Code::kInvalidArgument, std::format("{}, cell {}: the file ends inside a quoted cell",
                                                              row_name(state_->next_row), state_->used + 1));
  }
  return state_->failed;
}

// --- TableScan ---

struct TableScan::State {
  State() : rows_reader([this](std::uint64_t number, const auto& cells) { return take(number, cells); }) {}

  CsvRows rows_reader;
  std::vector<Column> columns;
  std::vector<std::set<std::string, std::less<>>> categories;
  std::uint64_t rows = 0;
  std::size_t text_bytes = 0;  // of the column names and categories

  Result<void> take(std::uint64_t number, const std::vector<std::string>& cells) {
    if (number == 0) return take_header(cells);
    if (cells.size() != columns.size()) {
      return fail(Code::kInvalidArgument,
                  std::format("row {} has {} cells, the header has {} columns", number, cells.size(), columns.size()));
    }
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (auto taken = take_cell(number, i, cells[i]); !taken) {
        auto error = std::move(taken).error();
        error.message = std::format("row {}, column '{}' {}", number, shown(columns[i].name), error.message);
        return std::unexpected(std::move(error));
      }
    }
    rows = number;
    return {};
  }

  Result<void> take_header(const std::vector<std::string>& cells) {
    std::set<std::string_view> names;
    for (const auto& name : cells) {
      if (name.empty()) {
        return fail(Code::kInvalidArgument, std::format("column {} of the header has no name", names.size() + 1));
      }
      if (!names.insert(name).second) {
        return fail(Code::kInvalidArgument, std::format("the header names column '{}' twice", shown(name)));
      }
      columns.push_back({.name = name, .categories = {}});
      if (auto counted = count_text(name); !counted) {
        auto error = std::move(counted).error();
        error.message = std::format("column '{}' {}", shown(name), error.message);
        return std::unexpected(std::move(error));
      }
    }
    categories.resize(columns.size());
    return {};
  }

  Result<void> take_cell(std::uint64_t number, std::size_t i, const std::string& cell) {
    Column& column = columns[i];
    if (cell.empty()) return fail(Code::kInvalidArgument, "is empty");
    const bool first = number == 1;
    if (!first && column.text) return take_text(i, cell);

    double value = 0;
    if (const auto fault = read_number(cell, value); !fault.empty()) {
      // Whatever does not look like a number at all makes a text column; nan and 1e99 are numbers gone wrong.
      if (!first || fault != kNoNumber) {
        return fail(Code::kInvalidArgument, std::format("holds numbers, and '{}' {}", shown(cell), fault));
      }
      column.text = true;
      return take_text(i, cell);
    }
    column.min = first ? value : std::min(column.min, value);
    column.max = first ? value : std::max(column.max, value);
    column.integral = (first || column.integral) && std::trunc(value) == value;
    return {};
  }

  Result<void> take_text(std::size_t i, const std::string& cell) {
    auto& known = categories[i];
    if (known.contains(cell)) return {};
    if (known.size() == kMaxCategories) {
      return fail(Code::kInvalidArgument,
                  std::format("holds more than {} different texts, '{}' being one more", kMaxCategories, shown(cell)));
    }
    known.insert(cell);
    return count_text(cell);
  }

  // The description of a table travels in one message.
  Result<void> count_text(std::string_view text) {
    text_bytes += text.size();
    if (text_bytes <= kMaxTableTextBytes) return {};
    return fail(Code::kTooLarge, std::format("brings the column names and different texts of the table to more than "
                                             "{} bytes, which is the limit",
                                             kMaxTableTextBytes));
  }
};

TableScan::TableScan() : state_(std::make_unique<State>()) {}
TableScan::~TableScan() = default;
TableScan::TableScan(TableScan&&) noexcept = default;
TableScan& TableScan::operator=(TableScan&&) noexcept = default;

Result<void> TableScan::push(std::span<const std::byte> piece) { return state_->rows_reader.push(piece); }

Result<void> TableScan::finish() {
  if (auto finished = state_->rows_reader.finish(); !finished) return finished;
  if (state_->columns.empty()) return fail(Code::kInvalidArgument, "an empty file, wanted a header and data rows");
  if (state_->rows == 0) return fail(Code::kInvalidArgument, "a header but no data rows");
  for (std::size_t i = 0; i < state_->columns.size(); ++i) {
    state_->columns[i].categories.assign(state_->categories[i].begin(), state_->categories[i].end());
  }
  return {};
}

std::uint64_t TableScan::rows() const { return state_->rows; }
const std::vector<Column>& TableScan::columns() const { return state_->columns; }

}  // namespace slipway::dataset

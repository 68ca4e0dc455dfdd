#include "lib/dataset/load.h"

#include <algorithm>
#include <format>

#include "lib/dataset/csv.h"
#include "lib/dataset/idx.h"

namespace slipway::dataset {
namespace {

Result<IdxView> parse_bytes(std::span<const std::byte> file, std::string_view what) {
  auto view = parse_idx(file);
  if (!view) {
    auto error = std::move(view).error();
    error.message = std::format("{}: {}", what, error.message);
    return std::unexpected(std::move(error));
  }
  if (view->header.type != IdxType::kU8) {
    return fail(Code::kUnsupported, std::format("{}: holds {}, wanted u8", what, idx_type_name(view->header.type)));
  }
  return view;
}

std::span<const std::uint8_t> as_u8(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

// The positions in `columns` of the features and the target.
struct Selection {
  std::vector<std::size_t> features;
  std::size_t target = 0;
};

Result<std::size_t> find_column(const std::vector<Column>& columns, const std::string& name) {
  const auto found = std::ranges::find(columns, name, &Column::name);
  if (found != columns.end()) return static_cast<std::size_t>(found - columns.begin());
  return fail(Code::kInvalidArgument, std::format("the table has no column '{}'", name));
}

Result<Selection> select(const std::vector<Column>& columns, const std::string& target,
                         const std::vector<std::string>& features) {
  Selection selection;
  const auto found = find_column(columns, target);
  if (!found) return std::unexpected(found.error());
  selection.target = *found;

  for (const std::string& name : features) {
    const auto at = find_column(columns, name);
    if (!at) return std::unexpected(at.error());
    if (*at == selection.target) {
      return fail(Code::kInvalidArgument, std::format("column '{}' is the target and a feature", name));
    }
    if (std::ranges::contains(selection.features, *at)) {
      return fail(Code::kInvalidArgument, std::format("column '{}' is a feature twice", name));
    }
    selection.features.push_back(*at);
  }
  if (features.empty()) {
    for (std::size_t i = 0; i < columns.size(); ++i) {
      if (i != selection.target) selection.features.push_back(i);
    }
  }
  if (selection.features.empty()) {
    return fail(Code::kInvalidArgument, std::format("the table has no column beside the target '{}'", target));
  }
  for (const std::size_t i : selection.features) {
    if (columns[i].text) {
      return fail(Code::kInvalidArgument,
                  std::format("column '{}' holds text and cannot be a feature", columns[i].name));
    }
  }
  return selection;
}

Result<float> number_in(const std::string& cell, std::uint64_t row, const Column& column) {
  const auto value = parse_number(cell);
  if (value) return static_cast<float>(*value);
  return fail(Code::kInvalidArgument, std::format("row {}, column '{}': {}", row, column.name, value.error().message));
}

}  // namespace

Result<ImageSet> read_images(std::span<const std::byte> images, std::span<const std::byte> labels) {
  const auto pixels = parse_bytes(images, "images");
  if (!pixels) return std::unexpected(pixels.error());
  const auto classes = parse_bytes(labels, "labels");
  if (!classes) return std::unexpected(classes.error());

  const auto& shape = pixels->header.shape;
  if (shape.size() < 2 || classes->header.shape.size() != 1) {
    return fail(Code::kInvalidArgument, std::format("images of {} and labels of {} dimensions, wanted 2 or more and 1",
                                                    shape.size(), classes->header.shape.size()));
  }
  if (shape[0] != classes->header.shape[0]) {
    return fail(Code::kInvalidArgument, std::format("{} images and {} labels", shape[0], classes->header.shape[0]));
  }
  return ImageSet{.rows = shape[0],
                  .row_shape = {shape.begin() + 1, shape.end()},
                  .pixels = as_u8(pixels->payload),
                  .labels = as_u8(classes->payload)};
}

Result<Table> read_table(std::span<const std::byte> csv, const std::vector<Column>& columns, std::uint64_t rows,
                         const std::string& target, const std::vector<std::string>& features) {
  const auto selection = select(columns, target, features);
  if (!selection) return std::unexpected(selection.error());
  // A cell takes two bytes at least, so a wrong number of rows cannot ask for more memory than the file justifies.
  if (rows > csv.size() / (2 * columns.size())) {
    return fail(Code::kInvalidArgument, std::format("{} rows wanted of a table of {} bytes", rows, csv.size()));
  }

  const Column& target_column = columns[selection->target];
  Table table;
  table.classes = target_column.categories;
  for (const std::size_t i : selection->features) table.features.push_back(columns[i].name);
  table.values.reserve(rows * selection->features.size());
  if (target_column.text) {
    table.labels.reserve(rows);
  } else {
    table.target.reserve(rows);
  }

  std::uint64_t found = 0;
  CsvRows reader([&](std::uint64_t number, const std::vector<std::string>& cells) -> Result<void> {
    if (cells.size() != columns.size()) {
      return fail(Code::kInvalidArgument,
                  std::format("row {} has {} cells, {} columns wanted", number, cells.size(), columns.size()));
    }
    if (number == 0) {
      if (std::ranges::equal(cells, columns, {}, {}, &Column::name)) return {};
      return fail(Code::kInvalidArgument, "the header names other columns than the data set's description");
    }
    if (number > rows) return fail(Code::kInvalidArgument, std::format("more than the {} rows wanted", rows));
    found = number;
    for (const std::size_t i : selection->features) {
      const auto value = number_in(cells[i], number, columns[i]);
      if (!value) return std::unexpected(value.error());
      table.values.push_back(*value);
    }
    const std::string& cell = cells[selection->target];
    if (!target_column.text) {
      const auto value = number_in(cell, number, target_column);
      if (!value) return std::unexpected(value.error());
      table.target.push_back(*value);
      return {};
    }
    const auto at = std::ranges::lower_bound(table.classes, cell);
    if (at == table.classes.end() || *at != cell) {
      return fail(Code::kInvalidArgument,
                  std::format("row {}, column '{}' holds a text that is not among its {} categories", number,
                              target_column.name, table.classes.size()));
    }
    table.labels.push_back(at - table.classes.begin());
    return {};
  });
  auto read = reader.push(csv).and_then([&] { return reader.finish(); });
  if (!read) return std::unexpected(std::move(read).error());
  if (found != rows) return fail(Code::kInvalidArgument, std::format("{} rows, {} wanted", found, rows));
  table.rows = static_cast<std::int64_t>(rows);
  return table;
}

}  // namespace slipway::dataset

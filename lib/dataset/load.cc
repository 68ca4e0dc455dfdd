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
  ImageSet set{.rows = shape[0], .row_shape = {shape.begin() + 1, shape.end()}, .pixels = {}, .labels = {}};
  set.pixels = {reinterpret_cast<const std::uint8_t*>(pixels->payload.data()), pixels->payload.size()};
  set.labels.reserve(classes->payload.size());
  for (const std::byte label : classes->payload) set.labels.push_back(std::to_integer<std::int64_t>(label));
  return set;
}

Result<Table> read_table(std::span<const std::byte> csv, const std::string& target,
                         const std::vector<std::string>& features) {
  // Twice through the bytes: the first time tells what the columns are and that every cell is as it should be.
  TableScan scan;
  auto scanned = scan.push(csv).and_then([&] { return scan.finish(); });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  const auto selection = select(scan.columns(), target, features);
  if (!selection) return std::unexpected(selection.error());

  const Column& target_column = scan.columns()[selection->target];
  Table table;
  table.rows = static_cast<std::int64_t>(scan.rows());
  table.classes = target_column.categories;
  for (const std::size_t i : selection->features) table.features.push_back(scan.columns()[i].name);
  table.values.reserve(scan.rows() * selection->features.size());
  table.target.reserve(scan.rows());

  CsvRows rows([&](std::uint64_t number, const std::vector<std::string>& cells) -> Result<void> {
    if (number == 0) return {};
    for (const std::size_t i : selection->features) {
      const auto value = parse_number(cells[i]);
      if (!value) return std::unexpected(value.error());
      table.values.push_back(static_cast<float>(*value));
    }
    const std::string& cell = cells[selection->target];
    if (target_column.text) {
      const auto at = std::ranges::lower_bound(table.classes, cell);
      table.labels.push_back(at - table.classes.begin());
      table.target.push_back(static_cast<float>(table.labels.back()));
      return {};
    }
    const auto value = parse_number(cell);
    if (!value) return std::unexpected(value.error());
    table.target.push_back(static_cast<float>(*value));
    return {};
  });
  auto read = rows.push(csv).and_then([&] { return rows.finish(); });
  if (!read) return std::unexpected(std::move(read).error());
  return table;
}

}  // namespace slipway::dataset

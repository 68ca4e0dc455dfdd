#include "lib/dataset/csv.h"

#include <gmock/gmock.h>

#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<std::vector<Column>> scan(std::string_view text, std::size_t step = 1 << 20) {
  TableScan table;
  for (std::size_t at = 0; at < text.size(); at += step) {
    auto taken = table.push(std::as_bytes(std::span(text.substr(at, step))));
    if (!taken) return std::unexpected(taken.error());
  }
  if (auto whole = table.finish(); !whole) return std::unexpected(whole.error());
  return table.columns();
}

void expect_csv_refused(std::string_view text, std::string_view part, Code code = Code::kInvalidArgument) {
  const auto columns = scan(text);
  ASSERT_FALSE(columns) << text.substr(0, 100);
  EXPECT_EQ(columns.error().code, code);
  EXPECT_THAT(columns.error().message, HasSubstr(part));
}

TEST(TableScan, TellsNumbersFromTextByTheFirstRow) {
  const auto columns = scan("age,city,ratio\n17,Oslo,-0.5\n3,Bern,1e2\n4,Oslo,+2\n");
  ASSERT_TRUE(columns) << columns.error().message;
  EXPECT_THAT(*columns, ElementsAre(Column{.name = "age", .min = 3, .max = 17, .integral = true, .categories = {}},
                                    Column{.name = "city", .text = true, .categories = {"Bern", "Oslo"}},
                                    Column{.name = "ratio", .min = -0.5, .max = 100, .categories = {}}));
}

TEST(TableScan, GivesTheSameInPiecesOfAnySize) {
  const std::string text =
      "\xEF\xBB\xBF"
      "name,\"x\"\r\n\"a, \"\"b\"\"\",1\r\n\r\n  c  , 2 \r\nd,3";
  const auto whole = scan(text);
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(whole->at(0).name, "name");
  EXPECT_THAT(whole->at(0).categories, ElementsAre("a, \"b\"", "c", "d"));
  EXPECT_EQ(scan(text, 1).value(), *whole);
  EXPECT_EQ(scan(text, 2).value(), *whole);
}

TEST(TableScan, KeepsWhatOnlyLooksLikeAByteOrderMark) {
  expect_csv_refused("\xEF\xBB,b\n1,2\n", "the header, cell 1 is not UTF-8");
  EXPECT_EQ(scan("\xEF\xBB\xBE,b\n1,2\n")->at(0).name, "\xEF\xBB\xBE");
}

TEST(TableScan, RefusesAHeaderWithoutNames) {
  expect_csv_refused("a,,c\n1,2,3\n", "column 2 of the header has no name");
  expect_csv_refused("a,b,a\n1,2,3\n", "names column 'a' twice");
}

TEST(TableScan, RefusesAFileWithoutRows) {
  expect_csv_refused("", "an empty file");
  expect_csv_refused("a,b\n", "no data rows");
  expect_csv_refused("a,b", "no data rows");
}

TEST(TableScan, RefusesEmptyCells) {
  expect_csv_refused("age,b\n1,2\n,3\n", "row 2, column 'age' is empty");
  expect_csv_refused("age,b\n1,2\n3,\"\"\n", "row 2, column 'b' is empty");
}

TEST(TableScan, RefusesRowsOfAnotherLength) {
  expect_csv_refused("a,b\n1,2\n1\n", "row 2 has 1 cells, the header has 2 columns");
  expect_csv_refused("a,b\n1,2,3\n", "row 1 has 3 cells");
}

TEST(TableScan, RefusesWhatIsNoFiniteNumberInANumberColumn) {
  expect_csv_refused("a,b\n1,2\n3,four\n", "row 2, column 'b' holds numbers, and 'four' is not a number");
  expect_csv_refused("a\n1\n1.5x\n", "'1.5x' is not a number");
  expect_csv_refused("a\n1\n0x10\n", "'0x10' is not a number");
  expect_csv_refused("a\n1\n+-1\n", "'+-1' is not a number");
  for (const char* text : {"nan", "NaN", "inf", "-Infinity", "1e999"}) {
    expect_csv_refused(std::string("a\n1\n") + text + "\n", "is not a finite number");
    expect_csv_refused(std::string("a\n") + text + "\n", "row 1, column 'a' holds numbers");
  }
  expect_csv_refused("a\n1e39\n", "outside the range of f32");
}

TEST(TableScan, TakesNumbersTooSmallToTellFromZero) { EXPECT_EQ(scan("a\n1e-999\n")->at(0).max, 0); }

TEST(TableScan, RefusesMoreTextsThanCategories) {
  std::string text = "id\n";
  for (std::size_t i = 0; i < kMaxCategories; ++i) text += "n" + std::to_string(i) + "\n";
  EXPECT_EQ(scan(text + "n0\n")->at(0).categories.size(), kMaxCategories);
  expect_csv_refused(text + "another\n", "row 1001, column 'id' holds more than 1000 different texts");
}

TEST(TableScan, RefusesBrokenQuotes) {
  expect_csv_refused("a,b\n1,x\"y\n", "row 1, cell 2: a quote inside an unquoted cell");
  expect_csv_refused("a\n\"x\"y\n", "row 1, cell 1");
  expect_csv_refused("a,b\n1,\"open\n2,3\n", "row 1, cell 2: the file ends inside a quoted cell");
}

TEST(TableScan, RefusesTextThatIsNotUtf8) { expect_csv_refused("a\nx\xff\n", "row 1, cell 1 is not UTF-8"); }

TEST(TableScan, BoundsCellsRowsColumnsAndTexts) {
  const std::string cell(kMaxCsvCellBytes, 'x');
  EXPECT_EQ(scan("a,b\n1,2\n" + cell + "\n").error().code, Code::kInvalidArgument);  // taken, but one cell short
  expect_csv_refused("a\n\"" + std::string(200 << 20, 'x'), "more than 1048576 bytes", Code::kTooLarge);
  expect_csv_refused("a\n" + cell + "x\n", "row 1, cell 1 has more than 1048576 bytes", Code::kTooLarge);
  std::string row = cell;
  for (int i = 0; i < 8; ++i) row += "," + cell;
  expect_csv_refused("a\n" + row + "\n", "row 1 has more than 8388608 bytes", Code::kTooLarge);
  expect_csv_refused(std::string(kMaxCsvColumns, ',') + "\n", "more than 10000 cells", Code::kTooLarge);

  std::string texts = "a\n";
  for (int i = 0; i < 3; ++i) texts += std::string(400'000, static_cast<char>('p' + i)) + "\n";
  expect_csv_refused(texts, "row 3, column 'a' brings the column names and different texts", Code::kTooLarge);
}

}  // namespace
}  // namespace slipway::dataset

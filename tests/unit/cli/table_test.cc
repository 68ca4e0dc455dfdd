#include "cli/table.h"

#include <gtest/gtest.h>

namespace slipway::cli {
namespace {

using enum Table::Align;

TEST(Table, AlignsItsColumnsAndLeavesNoBlanksAtTheEnd) {
  Table table({{"name"}, {"rows", kRight}, {"note"}});
  table.add({"boston", "506", ""});
  table.add({"fashion-mnist", "60,000", "images"});
  EXPECT_EQ(table.text(),
            "NAME             ROWS  NOTE\n"
            "boston            506\n"
            "fashion-mnist  60,000  images\n");
}

TEST(Table, CountsCharactersAndNotBytes) {
  Table table({{"a"}, {"b"}});
  table.add({"größe", "x"});
  table.add({"12345", "y"});
  EXPECT_EQ(table.text(), "A      B\ngröße  x\n12345  y\n");
}

TEST(Table, FillsMissingCellsAndDropsSurplusOnes) {
  Table table({{"a"}, {"b"}});
  table.add({"1"});
  table.add({"1", "2", "3"});
  EXPECT_EQ(table.text(), "A  B\n1\n1  2\n");
}

TEST(Table, LetsNoCellSteerTheTerminal) {
  Table table({{"a"}});
  table.add({"x\033[2J\ny"});
  EXPECT_EQ(table.text(), "A\nx?[2J?y\n");
}

}  // namespace
}  // namespace slipway::cli

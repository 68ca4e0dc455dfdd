#include "lib/dataset/load.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "lib/base/random_id.h"
#include "lib/dataset/csv.h"
#include "lib/dataset/mapped_file.h"
#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReadImages, GivesPixelsAndLabels) {
  const Bytes images = idx(8, {2, 1, 2}, {1, 2, 3, 255});
  const Bytes labels = idx(8, {2}, {7, 0});
  const auto set = read_images(images, labels);
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(set->rows, 2);
  EXPECT_THAT(set->row_shape, ElementsAre(1, 2));
  EXPECT_THAT(set->pixels, ElementsAre(1, 2, 3, 255));
  EXPECT_THAT(set->labels, ElementsAre(7, 0));
}

TEST(ReadImages, RefusesFilesThatDoNotBelongTogether) {
  const Bytes images = idx(8, {2, 1, 2}, {1, 2, 3, 4});
  EXPECT_THAT(read_images(images, idx(8, {1}, {7})).error().message, HasSubstr("2 images and 1 labels"));
  EXPECT_EQ(read_images(images, images).error().code, Code::kInvalidArgument);
  EXPECT_EQ(read_images(idx(9, {1, 1}, {1}), idx(8, {1}, {7})).error().code, Code::kUnsupported);
  EXPECT_THAT(read_images(images, bytes_of("x")).error().message, HasSubstr("labels: not an IDX file"));
}

constexpr const char* kHouses = "rooms,kind,price,area\n3,house,10,1.5\n4,flat,20,2.5\n5,house,30,3.5\n";

std::span<const std::byte> houses() { return std::as_bytes(std::span(std::string_view(kHouses))); }

std::vector<Column> columns_of(std::span<const std::byte> csv) {
  TableScan scan;
  EXPECT_TRUE(scan.push(csv));
  EXPECT_TRUE(scan.finish());
  return scan.columns();
}

Result<Table> read(const std::string& target, const std::vector<std::string>& features) {
  return read_table(houses(), columns_of(houses()), 3, target, features);
}

TEST(ReadTable, GivesTheFeaturesInTheOrderAskedFor) {
  const auto table = read("price", {"area", "rooms"});
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->rows, 3);
  EXPECT_THAT(table->features, ElementsAre("area", "rooms"));
  EXPECT_THAT(table->values, ElementsAre(1.5F, 3, 2.5F, 4, 3.5F, 5));
  EXPECT_THAT(table->target, ElementsAre(10, 20, 30));
  EXPECT_TRUE(table->labels.empty());
  EXPECT_TRUE(table->classes.empty());
}

TEST(ReadTable, NumbersTheClassesOfATextTargetInSortedOrder) {
  const auto table = read("kind", {});
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_THAT(table->features, ElementsAre("rooms", "price", "area"));
  EXPECT_THAT(table->classes, ElementsAre("flat", "house"));
  EXPECT_THAT(table->labels, ElementsAre(1, 0, 1));
  EXPECT_TRUE(table->target.empty());
}

TEST(ReadTable, RefusesColumnsItCannotUse) {
  EXPECT_THAT(read("prize", {}).error().message, HasSubstr("no column 'prize'"));
  EXPECT_THAT(read("price", {"attic"}).error().message, HasSubstr("no column 'attic'"));
  EXPECT_THAT(read("price", {"price"}).error().message, HasSubstr("the target and a feature"));
  EXPECT_THAT(read("price", {"area", "area"}).error().message, HasSubstr("a feature twice"));
  EXPECT_THAT(read("price", {"kind"}).error().message, HasSubstr("'kind' holds text"));
  EXPECT_THAT(read("price", {}).error().message, HasSubstr("'kind' holds text"));
  const Bytes lone = bytes_of("a\n1\n");
  EXPECT_THAT(read_table(lone, columns_of(lone), 1, "a", {}).error().message, HasSubstr("no column beside the target"));
}

TEST(ReadTable, RefusesAFileThatIsNotWhatItsDescriptionSays) {
  const auto columns = columns_of(houses());
  const auto refused = [&](std::string_view csv, std::uint64_t rows, const std::string& target = "kind") {
    const auto table = read_table(std::as_bytes(std::span(csv)), columns, rows, target, {"rooms"});
    if (table) return std::string();
    EXPECT_EQ(table.error().code, Code::kInvalidArgument);
    return table.error().message;
  };
  EXPECT_EQ(refused(kHouses, 3), "");
  EXPECT_THAT(refused(kHouses, 2), HasSubstr("more than the 2 rows"));
  EXPECT_THAT(refused(kHouses, 4), HasSubstr("3 rows, 4 wanted"));
  EXPECT_THAT(refused(kHouses, std::uint64_t{1} << 60), HasSubstr("rows wanted of a table of"));
  EXPECT_THAT(refused("rooms,kind,price\n3,house,10\n", 1), HasSubstr("3 cells, 4 columns wanted"));
  EXPECT_THAT(refused("rooms,kind,price,size\n3,house,10,1\n", 1), HasSubstr("other columns"));
  EXPECT_THAT(refused("rooms,kind,price,area\n3,tent,10,1\n", 1), HasSubstr("not among its 2 categories"));
  EXPECT_THAT(refused("rooms,kind,price,area\nx,flat,10,1\n", 1), HasSubstr("row 1, column 'rooms': 'x' is not"));
  EXPECT_THAT(refused("rooms,kind,price,area\n3,flat,,1\n", 1, "price"), HasSubstr("row 1, column 'price'"));
}

TEST(MappedFile, ShowsTheBytesAfterTheFileIsGone) {
  const auto path = std::filesystem::temp_directory_path() / ("slipway-mapped-" + random_hex());
  std::ofstream(path) << "bytes";
  auto file = MappedFile::open(path);
  ASSERT_TRUE(file) << file.error().message;
  std::filesystem::remove(path);
  EXPECT_TRUE(std::ranges::equal((*file)->bytes(), bytes_of("bytes")));
  EXPECT_EQ(MappedFile::open(path).error().code, Code::kDataLoss);
  std::ofstream(path).close();
  file = MappedFile::open(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE((*file)->bytes().empty());
  std::filesystem::remove(path);
  EXPECT_EQ(MappedFile::open(path.parent_path()).error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace slipway::dataset

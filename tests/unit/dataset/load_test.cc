#include "lib/dataset/load.h"

#include <gmock/gmock.h>

#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReadImages, GivesPixelsAndLabels) {
  const Bytes images = idx(8, {2, 1, 2}, {1, 2, 3, 255});
  const auto set = read_images(images, idx(8, {2}, {7, 0}));
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

Result<Table> read(const std::string& target, const std::vector<std::string>& features) {
  return read_table(std::as_bytes(std::span(std::string_view(kHouses))), target, features);
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
  EXPECT_THAT(table->target, ElementsAre(1, 0, 1));
}

TEST(ReadTable, RefusesColumnsItCannotUse) {
  EXPECT_THAT(read("prize", {}).error().message, HasSubstr("no column 'prize'"));
  EXPECT_THAT(read("price", {"attic"}).error().message, HasSubstr("no column 'attic'"));
  EXPECT_THAT(read("price", {"price"}).error().message, HasSubstr("the target and a feature"));
  EXPECT_THAT(read("price", {"area", "area"}).error().message, HasSubstr("a feature twice"));
  EXPECT_THAT(read("price", {"kind"}).error().message, HasSubstr("'kind' holds text"));
  EXPECT_THAT(read("price", {}).error().message, HasSubstr("'kind' holds text"));
  EXPECT_EQ(read_table(bytes_of("a\n1\n"), "a", {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(read_table(bytes_of("a,b\n1\n"), "a", {}).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace slipway::dataset

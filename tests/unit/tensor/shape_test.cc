#include "lib/tensor/shape.h"

#include <gtest/gtest.h>

namespace slipway {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;

TEST(Shape, AScalarHasOneElement) { EXPECT_EQ(element_count({}).value(), 1); }

TEST(Shape, AZeroDimensionMeansNoElements) { EXPECT_EQ(element_count(Shape{5, 0, 7}).value(), 0); }

TEST(Shape, TheLargestCountIsTakenAndOneMoreIsRefused) {
  EXPECT_EQ(element_count(Shape{kMost, 1}).value(), kMost);
  EXPECT_EQ(element_count(Shape{kMost, 2}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(element_count(Shape{1LL << 32, 1LL << 32}).error().code, Code::kInvalidArgument);
}

TEST(Shape, ANegativeDimensionIsRefused) {
  EXPECT_EQ(element_count(Shape{2, -1}).error().code, Code::kInvalidArgument);
}

TEST(Shape, MinusOneFitsAnySizeButNotAnotherRank) {
  EXPECT_TRUE(fits(Shape{7, 28}, Shape{-1, 28}));
  EXPECT_FALSE(fits(Shape{7, 27}, Shape{-1, 28}));
  EXPECT_FALSE(fits(Shape{7}, Shape{-1, 28}));
}

TEST(Shape, TextIsAListOfDimensions) { EXPECT_EQ(to_string(Shape{-1, 28}), "[-1, 28]"); }

}  // namespace
}  // namespace slipway

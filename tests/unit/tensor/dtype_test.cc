#include "lib/tensor/dtype.h"

#include <gtest/gtest.h>

namespace slipway {
namespace {

TEST(DType, NamesComeBackAsTheSameType) {
  for (int i = 0; i <= static_cast<int>(DType::kB8); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
    EXPECT_EQ(dtype_from_oip_name(oip_name(dtype)), dtype);
  }
}

TEST(DType, AnUnknownNameIsNone) {
  EXPECT_EQ(dtype_from_name("f128"), std::nullopt);
  EXPECT_EQ(dtype_from_oip_name("fp32"), std::nullopt);
}

TEST(DType, SizesAreThoseOfTheElements) {
  EXPECT_EQ(item_size(DType::kF32), 4U);
  EXPECT_EQ(item_size(DType::kBf16), 2U);
  EXPECT_EQ(item_size(DType::kI64), 8U);
  EXPECT_EQ(item_size(DType::kB8), 1U);
}

TEST(DType, OneOfALaterReleaseIsKnownNowhereAndShowsItsNumber) {
  EXPECT_TRUE(is_known(DType::kB8));
  for (const unsigned number : {10U, 99U, 65'535U}) {
    const auto later = static_cast<DType>(number);
    const std::string name = "unknown(" + std::to_string(number) + ")";
    EXPECT_FALSE(is_known(later));
    EXPECT_FALSE(is_floating(later));
    EXPECT_EQ(item_size(later), 1U);
    EXPECT_EQ(dtype_name(later), name);
    EXPECT_EQ(oip_name(later), name);
    EXPECT_EQ(tensorflow_name(later), name);
    EXPECT_EQ(dtype_from_name(name), std::nullopt);
  }
}

}  // namespace
}  // namespace slipway

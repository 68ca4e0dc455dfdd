#include "lib/base/secret.h"

#include <gtest/gtest.h>

namespace slipway {

TEST(Secret, IsTheSameOnlyToTheLetter) {
  EXPECT_TRUE(same_secret("", ""));
  EXPECT_TRUE(same_secret("harbour", "harbour"));
  EXPECT_FALSE(same_secret("harbour", "harbouR"));
  EXPECT_FALSE(same_secret("harbour", "harbour "));
  EXPECT_FALSE(same_secret("harbour", ""));
  EXPECT_FALSE(same_secret(std::string_view("a\0b", 3), std::string_view("a\0c", 3)));
}

}  // namespace slipway

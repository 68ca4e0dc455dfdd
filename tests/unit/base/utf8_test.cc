#include "lib/base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace slipway {
namespace {

// Each character's bytes in brackets, and "?" for what is none.
std::string taken(std::string_view text) {
  std::string all;
  while (!text.empty()) {
    const auto one = take_character(text);
    EXPECT_FALSE(one.bytes.empty());
    all += one.valid ? "[" + std::string(one.bytes) + "]" : "?";
  }
  return all;
}

TEST(Utf8, IsTakenCharacterByCharacter) {
  EXPECT_EQ(taken("a\xc3\xa4\xe2\x82\xac\xf0\x9f\x9a\xa2"), "[a][\xc3\xa4][\xe2\x82\xac][\xf0\x9f\x9a\xa2]");
  std::string_view ship = "\xf0\x9f\x9a\xa2";
  EXPECT_EQ(take_character(ship).point, 0x1f6a2u);
  EXPECT_TRUE(ship.empty());
}

TEST(Utf8, WhatIsNoneIsTakenToo) {
  EXPECT_EQ(taken("a\xff"), "[a]?");
  EXPECT_EQ(taken("\xe2\x82"), "?");
  EXPECT_TRUE(taken(std::string_view("\0", 1)).starts_with("["));
}

}  // namespace
}  // namespace slipway

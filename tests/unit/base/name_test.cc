#include "lib/base/name.h"

#include <gmock/gmock.h>

namespace slipway {
namespace {

TEST(Name, IsUpTo128LettersDigitsDotsUnderscoresAndDashes) {
  for (const auto* good : {"a", "7", "fashion-mnist", "v1.2_b"}) EXPECT_TRUE(is_name(good)) << good;
  for (const auto* bad : {"", ".", "-a", "_a", "a b", "a/b", "\xC3\xA4", "a\n"}) EXPECT_FALSE(is_name(bad)) << bad;
  EXPECT_TRUE(is_name(std::string(128, 'x')));
  EXPECT_FALSE(is_name(std::string(129, 'x')));
}

TEST(Name, ARefusalShowsTheNameWhenItCanBeShown) {
  EXPECT_TRUE(check_name("model", "m"));
  EXPECT_THAT(check_name("model", "a b").error().message, testing::StartsWith("model 'a b': wanted"));
  EXPECT_THAT(check_name("model", "a\nb").error().message, testing::StartsWith("model 3 bytes: wanted"));
  EXPECT_THAT(check_name("model", std::string(200, 'x')).error().message, testing::StartsWith("model 200 bytes"));
}

}  // namespace
}  // namespace slipway

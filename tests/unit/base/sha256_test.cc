#include "lib/base/sha256.h"

#include <gtest/gtest.h>

namespace slipway {
namespace {

// FIPS 180-4's examples, and a million times "a".
TEST(Sha256, AgreesWithTheStandardsVectors) {
  EXPECT_EQ(to_hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(to_hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(to_hex(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(to_hex(sha256(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, IsTheSameHoweverTheBytesAreSplit) {
  const std::string text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  for (std::size_t split = 0; split <= text.size(); ++split) {
    Sha256 hash;
    hash.update(std::string_view(text).substr(0, split));
    hash.update(std::string_view(text).substr(split));
    EXPECT_EQ(hash.finish(), sha256(text)) << split;
  }
}

TEST(Sha256, StartsAnewAfterFinish) {
  Sha256 hash;
  hash.update("something else");
  static_cast<void>(hash.finish());
  hash.update("abc");
  EXPECT_EQ(hash.finish(), sha256("abc"));
}

TEST(Sha256, ReadsItsHexadecimalForm) {
  const Digest digest = sha256("abc");
  ASSERT_TRUE(digest_from_hex(to_hex(digest)));
  EXPECT_EQ(*digest_from_hex(to_hex(digest)), digest);
  EXPECT_EQ(to_hex(Digest{}), "");
  for (const std::string& text : {std::string(), std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'g')}) {
    const auto read = digest_from_hex(text);
    ASSERT_FALSE(read) << text;
    EXPECT_EQ(read.error().code, Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace slipway

#include <gtest/gtest.h>

#include <set>
#include <type_traits>

#include "lib/base/random_id.h"
#include "schema/records.h"

namespace slipway {
namespace {

TEST(Id, OfOneKindIsNotOneOfAnother) {
  static_assert(!std::is_convertible_v<JobId, WorkerId>);
  static_assert(!std::is_constructible_v<JobId, WorkerId>);
  static_assert(!std::is_convertible_v<std::string, JobId>);
  EXPECT_TRUE(JobId().empty());
  EXPECT_EQ(JobId("a"), JobId("a"));
  EXPECT_LT(JobId("a"), JobId("b"));
}

TEST(RandomId, IsHexadecimalOfTheLengthAskedFor) {
  EXPECT_EQ(random_hex(64).size(), 16u);
  EXPECT_EQ(random_hex().size(), 32u);
  EXPECT_EQ(random_hex(256).find_first_not_of("0123456789abcdef"), std::string::npos);
}

TEST(RandomId, DoesNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 10000; ++i) seen.insert(random_hex(64));
  EXPECT_EQ(seen.size(), 10000u);
}

}  // namespace
}  // namespace slipway

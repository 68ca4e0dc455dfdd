#include "lib/base/error.h"

#include <gtest/gtest.h>

#include <set>

namespace slipway {
namespace {

TEST(Error, NamesEveryCodeOnce) {
  std::set<std::string_view> names;
  for (auto code = static_cast<int>(Code::kInvalidArgument); code <= static_cast<int>(Code::kUnsupported); ++code) {
    names.insert(code_name(static_cast<Code>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Code::kUnsupported));
  EXPECT_EQ(code_name(Code::kInvalidArgument), "invalid_argument");
  EXPECT_EQ(code_name(Code::kDeadlineExceeded), "deadline_exceeded");
}

TEST(Error, CallsAnUnknownCodeInternal) {
  EXPECT_EQ(code_name(static_cast<Code>(0)), "internal");
  EXPECT_EQ(code_name(static_cast<Code>(200)), "internal");
}

TEST(Error, CarriesWhereInTheDocumentItIs) {
  const Result<int> result = fail_at("$.fit.epochs", Code::kInvalidArgument, "epochs is 0: wanted at least 1");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().path, "$.fit.epochs");
  EXPECT_EQ(result.error().code, Code::kInvalidArgument);
  const Result<int> without = fail(Code::kNotFound, "no such job");
  EXPECT_EQ(without.error().path, "");
}

}  // namespace
}  // namespace slipway

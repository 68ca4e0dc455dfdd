#include "lib/base/log.h"

#include <gtest/gtest.h>

namespace slipway {
namespace {

TEST(Log, RefusesAFormatOrLevelItDoesNotKnow) {
  for (const auto& [format, level] : {std::pair{"xml", "info"}, std::pair{"text", "loud"}}) {
    const auto started = start_logging("test", format, level);
    ASSERT_FALSE(started) << format << level;
    EXPECT_EQ(started.error().code, Code::kInvalidArgument);
  }
  EXPECT_TRUE(start_logging("test", "json", "off"));
}

TEST(Log, QuotesAValueOnlyWhenItMust) {
  EXPECT_EQ(log_value("fashion-mnist"), "fashion-mnist");
  EXPECT_EQ(log_value("two words"), R"("two words")");
  EXPECT_EQ(log_value("a=b"), R"("a=b")");
  EXPECT_EQ(log_value("line\nbreak \"x\""), R"("line\nbreak \"x\"")");
  EXPECT_EQ(log_value(""), R"("")");
}

}  // namespace
}  // namespace slipway

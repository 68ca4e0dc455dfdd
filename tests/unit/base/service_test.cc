#include "lib/base/service.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>

#include "lib/base/random_id.h"

namespace slipway {
namespace {

TEST(Announce, WritesThePortsAsOneJsonObject) {
  const std::string file = testing::TempDir() + "slipway-announce-" + random_hex(64);
  ASSERT_TRUE(announce(file, {{"bus", 7071}, {"metrics", 9090}}));
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  EXPECT_EQ(boost::json::parse(text.str()), boost::json::parse(R"({"bus": 7071, "metrics": 9090})"));
  EXPECT_FALSE(std::filesystem::exists(file + ".part"));
  std::filesystem::remove(file);
}

TEST(Announce, IsAnErrorWhereNothingCanBeWritten) {
  const auto announced = announce("/no/such/folder/file", {});
  ASSERT_FALSE(announced);
  EXPECT_EQ(announced.error().code, Code::kInternal);
}

TEST(Announce, DoesNothingWithoutAFile) { EXPECT_TRUE(announce("", {{"bus", 1}})); }

TEST(StopLimitDeathTest, EndsAProcessThatDoesNotEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const StopLimit limit(std::chrono::milliseconds(1));
        std::promise<void>().get_future().wait();
      },
      testing::ExitedWithCode(1), "");
}

TEST(StopLimit, LetsGoOfOneThatDoes) { const StopLimit limit(std::chrono::hours(24)); }

}  // namespace
}  // namespace slipway

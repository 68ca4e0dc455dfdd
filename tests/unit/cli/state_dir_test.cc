#include "cli/state_dir.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "lib/base/random_id.h"

namespace slipway::cli {
namespace {

class StateDirTest : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove_all(path_); }
  const std::filesystem::path path_ = std::filesystem::path(testing::TempDir()) / ("slipway-" + random_hex(64));
};

TEST_F(StateDirTest, RefusesASecondHolderAndSaysWhoTheFirstIs) {
  {
    const auto first = StateDir::open(path_ / "deep");
    ASSERT_TRUE(first);
    const auto second = StateDir::open(path_ / "deep");
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Code::kConflict);
    EXPECT_THAT(second.error().message, testing::HasSubstr(std::to_string(getpid())));
  }
  EXPECT_TRUE(StateDir::open(path_ / "deep"));
}

TEST_F(StateDirTest, RefusesAPlaceWhereNoFolderCanBe) {
  const auto state = StateDir::open("/proc/slipway");
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, Code::kUnavailable);
}

TEST_F(StateDirTest, ReplacesAFileWhole) {
  const auto state = StateDir::open(path_);
  ASSERT_TRUE(state);
  ASSERT_TRUE(state->write("up.json", "one"));
  ASSERT_TRUE(state->write("up.json", "two"));
  std::stringstream text;
  text << std::ifstream(path_ / "up.json").rdbuf();
  EXPECT_EQ(text.str(), "two");
  EXPECT_FALSE(std::filesystem::exists(path_ / "up.json.part"));
  state->remove("up.json");
  EXPECT_FALSE(std::filesystem::exists(path_ / "up.json"));
}

TEST_F(StateDirTest, KeepsOneSecretThatOnlyItsOwnerMayRead) {
  std::string secret;
  {
    const auto state = StateDir::open(path_);
    ASSERT_TRUE(state);
    secret = state->secret().value();
    EXPECT_EQ(secret.size(), 64U);
    EXPECT_EQ(state->secret().value(), secret);
    using std::filesystem::perms;
    EXPECT_EQ(std::filesystem::status(path_ / "secret").permissions(), perms::owner_read | perms::owner_write);
    std::filesystem::permissions(path_ / "secret", perms::all);
  }
  const auto again = StateDir::open(path_);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->secret().value(), secret);
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(path_ / "secret").permissions(), perms::owner_read | perms::owner_write);
}

TEST(StateDir, IsWhereSlipwayHomeSays) {
  setenv("SLIPWAY_HOME", "/some/place", 1);
  EXPECT_EQ(default_state_dir(), "/some/place");
  unsetenv("SLIPWAY_HOME");
  setenv("XDG_DATA_HOME", "/data", 1);
  EXPECT_EQ(default_state_dir(), "/data/slipway");
  unsetenv("XDG_DATA_HOME");
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(default_state_dir(), "/home/someone/.local/share/slipway");
}

}  // namespace
}  // namespace slipway::cli

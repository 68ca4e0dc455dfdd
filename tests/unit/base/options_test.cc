#include "lib/base/options.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "lib/base/random_id.h"

namespace slipway {
namespace {

class OptionsTest : public testing::Test {
 protected:
  void SetUp() override { std::ofstream(file_) << "bus-port = 3\ngateways = [\"f:1\", \"f:2\"]\n"; }
  void TearDown() override {
    unsetenv("SLIPWAY_BUS_PORT");
    unsetenv("SLIPWAY_GATEWAYS");
    std::filesystem::remove(file_);
  }

  std::optional<int> parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "program");
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    Options options("A program", "program");
    options.add("bus-port", port_, "a port");
    options.add("gateways", gateways_, "a list");
    options.add("lease-seconds", seconds_, "a time");
    return options.parse(static_cast<int>(argv.size()), argv.data());
  }

  const std::string file_ = testing::TempDir() + "slipway-options-" + random_hex(64) + ".toml";
  int port_ = 4;
  std::vector<std::string> gateways_;
  double seconds_ = 10;
};

TEST_F(OptionsTest, KeepDefaultsWhenNothingIsGiven) {
  EXPECT_EQ(parse({}), std::nullopt);
  EXPECT_EQ(port_, 4);
  EXPECT_EQ(seconds_, 10);
}

TEST_F(OptionsTest, TakeTheFileOverTheDefault) {
  EXPECT_EQ(parse({"--config", file_}), std::nullopt);
  EXPECT_EQ(port_, 3);
  EXPECT_THAT(gateways_, testing::ElementsAre("f:1", "f:2"));
}

TEST_F(OptionsTest, TakeTheEnvironmentOverTheFile) {
  setenv("SLIPWAY_BUS_PORT", "2", 1);
  setenv("SLIPWAY_GATEWAYS", "e:1,e:2,e:3", 1);
  EXPECT_EQ(parse({"--config", file_}), std::nullopt);
  EXPECT_EQ(port_, 2);
  EXPECT_THAT(gateways_, testing::ElementsAre("e:1", "e:2", "e:3"));
}

TEST_F(OptionsTest, TakeAnEmptyVariableForNone) {
  setenv("SLIPWAY_BUS_PORT", "", 1);
  setenv("SLIPWAY_GATEWAYS", "", 1);
  EXPECT_EQ(parse({"--lease-seconds", "2"}), std::nullopt);
  EXPECT_EQ(port_, 4);
  EXPECT_THAT(gateways_, testing::IsEmpty());
  EXPECT_EQ(seconds_, 2);
}

TEST_F(OptionsTest, TakeTheFlagOverAllElse) {
  setenv("SLIPWAY_BUS_PORT", "2", 1);
  setenv("SLIPWAY_GATEWAYS", "e:1", 1);
  EXPECT_EQ(parse({"--config", file_, "--bus-port=1", "--gateways", "a:1,b:2"}), std::nullopt);
  EXPECT_EQ(port_, 1);
  EXPECT_THAT(gateways_, testing::ElementsAre("a:1", "b:2"));
}

TEST_F(OptionsTest, TakeTheLastOfAFlagGivenTwice) {
  EXPECT_EQ(parse({"--bus-port=1", "--bus-port", "9"}), std::nullopt);
  EXPECT_EQ(port_, 9);
}

TEST_F(OptionsTest, EndWithTwoForWhatTheyCannotRead) {
  EXPECT_EQ(parse({"--bus-port=many"}), 2);
  EXPECT_EQ(parse({"--no-such-flag"}), 2);
  setenv("SLIPWAY_BUS_PORT", "many", 1);
  EXPECT_EQ(parse({}), 2);
}

TEST_F(OptionsTest, EndWithZeroAfterHelpAndVersion) {
  EXPECT_EQ(parse({"--help"}), 0);
  EXPECT_EQ(parse({"--version"}), 0);
}

}  // namespace
}  // namespace slipway

#include "lib/wire/address_list.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <format>
#include <fstream>
#include <vector>

namespace slipway {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(AddressList, TakesLiteralAddressesAsTheyAre) {
  const std::vector<std::string> places{"127.0.0.1:7070", "[::1]:7071"};
  const Addresses addresses = look_up(places);
  EXPECT_THAT(addresses.found, ElementsAre("127.0.0.1:7070", "[::1]:7071"));
  EXPECT_TRUE(addresses.complete);
}

TEST(AddressList, FindsEveryAddressOfAName) {
  const std::vector<std::string> places{"localhost:7070"};
  const Addresses addresses = look_up(places);
  EXPECT_TRUE(addresses.found.contains("127.0.0.1:7070") || addresses.found.contains("[::1]:7070"));
  EXPECT_TRUE(addresses.complete);
}

TEST(AddressList, SaysWhenItCouldNotFindAll) {
  for (const char* place : {"no-such-host.invalid:7070", "@/no/such/file", "127.0.0.1"}) {
    const std::vector<std::string> places{"127.0.0.1:1", place};
    const Addresses addresses = look_up(places);
    EXPECT_THAT(addresses.found, ElementsAre("127.0.0.1:1")) << place;
    EXPECT_FALSE(addresses.complete) << place;
  }
}

TEST(AddressList, ReadsAFileAnewEachTime) {
  const auto path = std::filesystem::temp_directory_path() / std::format("addresses-{}", getpid());
  const std::vector<std::string> places{"@" + path.string()};
  std::ofstream(path) << "# all of them\n\n 127.0.0.1:1 # one\r\n127.0.0.2:2";
  EXPECT_THAT(look_up(places).found, ElementsAre("127.0.0.1:1", "127.0.0.2:2"));
  std::ofstream(path) << "";
  EXPECT_THAT(look_up(places).found, IsEmpty());
  EXPECT_TRUE(look_up(places).complete) << "an empty list is one";
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace slipway

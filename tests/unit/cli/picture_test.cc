#include "cli/picture.h"

#include <gmock/gmock.h>

namespace slipway::cli {
namespace {

using testing::ElementsAre;

TEST(Picture, ShowsTheMeanOfTwoRowsAsOneOfFiveShades) {
  const std::vector<std::uint8_t> pixels = {0, 255, 255, 52, /**/ 0, 255, 0, 52};
  EXPECT_THAT(picture_lines(pixels, 4, 2, false), ElementsAre(" █▒░"));
}

TEST(Picture, ShowsBothPixelsInColour) {
  EXPECT_THAT(picture_lines(std::vector<std::uint8_t>{1, 2}, 1, 2, true),
              ElementsAre("\033[38;2;1;1;1;48;2;2;2;2m▀\033[0m"));
}

TEST(Picture, TakesAMissingLastRowForBlack) {
  EXPECT_THAT(picture_lines(std::vector<std::uint8_t>{255, 255, 255}, 1, 3, false), ElementsAre("█", "▒"));
}

}  // namespace
}  // namespace slipway::cli

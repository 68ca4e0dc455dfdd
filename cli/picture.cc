#include "cli/picture.h"

#include <array>
#include <format>
#include <string_view>

namespace slipway::cli {

std::vector<std::string> picture_lines(std::span<const std::uint8_t> pixels, int width, int height, bool colour) {
  static constexpr std::array<std::string_view, 5> kShades = {" ", "░", "▒", "▓", "█"};
  const auto pixel = [&](int x, int y) -> int {
    if (y >= height) return 0;
    return pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)];
  };
  std::vector<std::string> lines;
  for (int y = 0; y < height; y += 2) {
    std::string line;
    for (int x = 0; x < width; ++x) {
      const int upper = pixel(x, y), lower = pixel(x, y + 1);
      if (colour) {
        line += std::format("\033[38;2;{0};{0};{0};48;2;{1};{1};{1}m▀", upper, lower);
      } else {
        line += kShades[static_cast<std::size_t>((upper + lower) / 2) * kShades.size() / 256];
      }
    }
    if (colour) line += "\033[0m";
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace slipway::cli

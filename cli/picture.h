// Grey images made of block characters, one line for two rows of pixels.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace slipway::cli {

// Lines of an image of `width` times `height` grey pixels, row-major, each `width` characters. `colour`: half blocks in
// 24-bit colour, which show both pixels. Otherwise one of five shaded blocks for the mean of the two.
[[nodiscard]] std::vector<std::string> picture_lines(std::span<const std::uint8_t> pixels, int width, int height,
                                                     bool colour);

}  // namespace slipway::cli

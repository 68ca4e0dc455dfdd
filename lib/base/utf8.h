// Text from outside, which may be UTF-8 or not, one character after the other.
#pragma once

#include <cstdint>
#include <string_view>

namespace slipway {

struct Utf8Character {
  std::uint32_t point = 0;
  std::string_view bytes;  // of the text, at least one
  bool valid = false;      // else `point` means nothing
};

// Takes the first character off `text`, which must not be empty.
[[nodiscard]] Utf8Character take_character(std::string_view& text);

}  // namespace slipway

// From bytes to a JSON value: strict, bounded, and with the place of the first fault.
#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::keras {

inline constexpr std::size_t kMaxDocumentBytes = 1 << 20;
inline constexpr std::size_t kMaxDepth = 32;

// Reads one JSON value. `path` is where the text itself stands in the asker's document ("$" for all of it).
// Errors, at `path` or at the key concerned: kTooLarge (over kMaxDocumentBytes), kInvalidArgument (not JSON, not
// UTF-8, nested over kMaxDepth, a key twice in one object). Comments, trailing commas, NaN and Infinity are not JSON.
[[nodiscard]] Result<boost::json::value> read_json(std::string_view text, std::string_view path);

// `text` cut to at most 80 bytes between characters, control characters replaced; for messages and paths.
[[nodiscard]] std::string printable(std::string_view text);

// "$.fit" and "epochs" -> "$.fit.epochs"; a key that is not a plain word -> "$.fit['a key']".
[[nodiscard]] std::string member_path(std::string_view path, std::string_view key);

}  // namespace slipway::keras

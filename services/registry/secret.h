// Words that only some may know.
#pragma once

#include <string_view>

#include "lib/base/sha256.h"

namespace slipway::registry {

// Whether both are the same, in a time that says nothing about where they differ: what is compared are hashes.
[[nodiscard]] inline bool same_secret(std::string_view one, std::string_view other) {
  const Digest a = sha256(one);
  const Digest b = sha256(other);
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.bytes.size(); ++i) difference |= static_cast<unsigned>(a.bytes[i] ^ b.bytes[i]);
  return difference == 0;
}

}  // namespace slipway::registry

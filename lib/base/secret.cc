#include "lib/base/secret.h"

#include <algorithm>

namespace slipway {

bool same_secret(std::string_view one, std::string_view other) {
  // Every byte is looked at, whatever the first ones were. volatile: the compiler must not know better.
  volatile unsigned char difference = one.size() == other.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(one.size(), other.size()); ++i) {
    difference = difference | static_cast<unsigned char>(one[i] ^ other[i]);
  }
  return difference == 0;
}

}  // namespace slipway

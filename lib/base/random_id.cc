#include "lib/base/random_id.h"

#include <sys/random.h>

#include <cstdlib>
#include <format>

namespace slipway {

std::uint64_t random_u64() {
  std::uint64_t value = 0;
  if (getrandom(&value, sizeof value, 0) != sizeof value) std::abort();
  return value;
}

std::string random_hex(int bits) {
  std::string text;
  for (int done = 0; done < bits; done += 64) text += std::format("{:016x}", random_u64());
  return text;
}

}  // namespace slipway

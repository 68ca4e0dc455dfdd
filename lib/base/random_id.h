// Random identifiers from the kernel's generator.
#pragma once

#include <cstdint>
#include <string>

namespace slipway {

// 64 random bits.
[[nodiscard]] std::uint64_t random_u64();

// `bits` random bits (a multiple of 64) as lower-case hexadecimal.
[[nodiscard]] std::string random_hex(int bits = 128);

}  // namespace slipway

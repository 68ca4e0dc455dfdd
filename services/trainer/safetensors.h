// The safetensors layout: 8 bytes of header length, a JSON header, then the tensors' bytes. Little-endian.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "lib/base/error.h"
#include "services/trainer/named_tensors.h"

namespace slipway::trainer {

inline constexpr std::size_t kMaxSafetensorsHeaderBytes = 1 << 20;
inline constexpr std::size_t kMaxSafetensorsTensors = 10'000;

// In the order given. dtypes: f32, f64, i64, u8. Errors: kUnsupported (another dtype), kTooLarge (too many tensors).
[[nodiscard]] Result<std::vector<std::byte>> write_safetensors(const NamedTensors& tensors);

// Copies of the tensors, in the order of their bytes. Everything is checked: sizes, bounds, gaps, overlaps.
// Errors: kDataLoss (not such a file).
[[nodiscard]] Result<NamedTensors> read_safetensors(std::span<const std::byte> bytes);

}  // namespace slipway::trainer

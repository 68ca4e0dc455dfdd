// Which versions of a model inferencers keep in memory unasked: they load these, and gateways wait for them.
#pragma once

#include <cstdint>
#include <set>

#include "schema/records.h"

namespace slipway {

// The latest and the aliased ones; none while the model is unloaded.
[[nodiscard]] inline std::set<std::uint64_t> desired_numbers(const Model& model) {
  std::set<std::uint64_t> numbers;
  if (model.unloaded) return numbers;
  if (model.latest > 0) numbers.insert(model.latest);
  for (const Alias& alias : model.aliases) numbers.insert(alias.version);
  return numbers;
}

}  // namespace slipway

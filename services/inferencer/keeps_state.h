// Whether a module's calls have to take turns, because one may write what another reads. Torch may throw.
#pragma once

#include <torch/script.h>

namespace slipway::inferencer {

// Whether `forward` may change anything that outlives the call: an attribute, what an attribute holds (a list, a
// dictionary, a tensor in place), or a constant of the program. Only what provably cannot is false: every write goes to
// something that the call itself has made, or was given as an argument. Branches that the module's attributes rule out,
// such as those for training, do not count.
[[nodiscard]] bool keeps_state(const torch::jit::Module& module);

}  // namespace slipway::inferencer

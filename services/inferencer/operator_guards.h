// Operators that honest models use and that still end the process, or leave their memory, for some arguments: an
// integer division by zero, a padding below zero, a dtype that is none. Their arguments are checked as they run, so
// that the model gets an exception instead. Operators that no check would make safe raise one in any case, warnings are
// left out, and every round of a loop looks whether the run has memory left.
#pragma once

#include <torch/script.h>

#include "lib/base/error.h"

namespace slipway::inferencer {

// Puts the checks into every function of the module's compilation unit. Before the first run: torch keeps copies of
// what it has run. Results stay what they were. Torch may throw.
// Errors: kInvalidArgument (an argument that is a constant is a bad one).
[[nodiscard]] Result<void> guard_operators(const torch::jit::Module& module);

// The same for one graph.
[[nodiscard]] Result<void> guard_operators(torch::jit::Graph& graph);

}  // namespace slipway::inferencer

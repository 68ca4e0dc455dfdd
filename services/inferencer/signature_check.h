// Whether a request is one that a version's signature describes. No torch in here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"
#include "schema/records.h"

namespace slipway::inferencer {

// Whether rows of several requests may be run together: every input and output has a free first dimension.
[[nodiscard]] bool is_batchable(const Signature& signature);

// Whether a dimension other than the first is free.
[[nodiscard]] bool has_free_dimensions(const Signature& signature);

// A request in the signature's order, with its number of rows (1 for a version that is not batchable).
struct CheckedInputs {
  std::vector<TensorSpec> specs;
  std::vector<Frame> frames;
  std::int64_t rows = 1;
};

// `specs` have concrete shapes, `frames` their bytes in the same order. The messages are those of Triton where it has
// one. Errors: kInvalidArgument (names, element types, shapes, sizes, no rows, inputs that differ in rows).
[[nodiscard]] Result<CheckedInputs> check_inputs(const std::string& model, const Signature& signature,
                                                 std::vector<TensorSpec> specs, std::vector<Frame> frames);

}  // namespace slipway::inferencer

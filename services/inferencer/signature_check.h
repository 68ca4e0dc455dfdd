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

// Whether this release knows every element type of the signature. Errors: kUnsupported.
[[nodiscard]] Result<void> check_types(const Signature& signature);

// Whether a model's output `index`, with a concrete shape, is one that the signature describes; `rows`: of the batch
// that it answers, looked at when the version is batchable. An output without elements, which a free dimension of 0
// makes, may stand for 65,536 empty lists at most. Errors: kInternal (it is another one).
[[nodiscard]] Result<void> check_output(const Signature& signature, std::size_t index, DType dtype,
                                        std::span<const std::int64_t> shape, std::int64_t rows);

// A request in the signature's order, with its number of rows (1 for a version that is not batchable).
struct CheckedInputs {
  std::vector<TensorSpec> specs;
  std::vector<Frame> frames;
  std::int64_t rows = 1;
};

// `specs` have concrete shapes, `frames` their bytes in the same order. The messages are those of Triton where it has
// one. Errors: kInvalidArgument (names, element types, shapes, sizes, no rows, inputs that differ in rows),
// kUnsupported (an element type that this release does not know).
[[nodiscard]] Result<CheckedInputs> check_inputs(const std::string& model, const Signature& signature,
                                                 std::vector<TensorSpec> specs, std::vector<Frame> frames);

}  // namespace slipway::inferencer

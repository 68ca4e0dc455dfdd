// The plain dialect of the tutorials: {"input": [...]} in, {"prediction": ...} out.
#pragma once

#include <optional>
#include <string>

#include "services/gateway/json_tensor.h"
#include "services/gateway/route_table.h"
#include "services/gateway/services.h"

namespace slipway::gateway {

void add_plain_routes(RouteTable& routes, Services& services);

// A body's members, before the model and so the input's dtype are known.
struct PlainBody {
  std::string model;    // empty: the only one there is
  std::string version;  // a number or an alias; empty: the latest
  std::string_view input;
};
// Errors: kInvalidArgument.
[[nodiscard]] Result<PlainBody> read_plain_body(std::string_view body);

// How an input of shape `given` is one example or a batch of what the signature's `wanted` ([-1, *row]) says: flat or
// nested, trailing dimensions of 1 left out or not.
struct PlainShape {
  Shape shape;         // to send, the batch first
  bool batch = false;  // answer with a list
};
// Errors: kInvalidArgument (neither).
[[nodiscard]] Result<PlainShape> plain_shape(const Shape& given, const Shape& wanted);

// The answer's body: the class and its probability, or the numbers. Errors: kInternal (an output that does not fit the
// classes, or is not a number).
[[nodiscard]] Result<std::string> write_plain_answer(const Version& version, const Tensor& output, bool batch);

}  // namespace slipway::gateway

// The operators that an uploaded model may use: those that inference networks are made of, and nothing that touches
// files, processes, other memory or other devices. An allowlist, since a list of the bad ones is never complete; by
// overload, since one name stands for harmless forms and others.
#pragma once

#include <span>
#include <string_view>

namespace slipway::inferencer {

// `full` is "space::name.overload", without the point when the overload has no name; for what has no schema,
// "prim::name". The list is operators.inc.
[[nodiscard]] bool is_allowed_operator(std::string_view full);
[[nodiscard]] std::span<const std::string_view> allowed_operators();

// Operators that honest code names in branches that need not be taken, and that are not safe to run: operator_guards.h
// puts an exception in their place.
[[nodiscard]] bool is_replaced_operator(std::string_view full);

// Whether any overload of "space::name" is allowed, or replaced.
[[nodiscard]] bool is_allowed_name(std::string_view space, std::string_view name);

// Whether source may call ops.SPACE.NAME. Of prim:: only what torch itself writes so; the others are what the compiler
// makes of statements, and trusts to be as it made them.
[[nodiscard]] bool is_callable_name(std::string_view space, std::string_view name);

}  // namespace slipway::inferencer

// Where something listens or is dialled: "host:port", and "[host]:port" when the host is an IPv6 address.
#pragma once

#include <string>
#include <string_view>

namespace slipway {

// "[::1]" as "::1"; anything else as it is.
[[nodiscard]] std::string_view without_brackets(std::string_view host);

// `host` and `port` as one; an IPv6 address may have its brackets already.
[[nodiscard]] std::string endpoint(std::string_view host, int port);

// Whether an endpoint's host is a name, which has to be looked up, and not an address.
[[nodiscard]] bool is_by_name(std::string_view endpoint);

// Whether a host is an IPv6 address.
[[nodiscard]] bool is_ipv6(std::string_view host);

}  // namespace slipway

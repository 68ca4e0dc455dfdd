// Which hosts a request may name and which web pages may send one: browsers carry any page's requests to a gateway on
// loopback, under the page's own name if its DNS says so. No I/O in here.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "services/gateway/http_message.h"

namespace slipway::gateway {

// Threads: any, it does not change.
class OriginGate {
 public:
  // Bound to loopback, requests may name loopback hosts and `hosts` only; bound elsewhere the same when there are
  // `hosts`, any otherwise. A host is a name or an address without a port; "*.example.org" is every name below it, "*"
  // any. `origins` are pages of other hosts that may use the API, "https://host[:port]".
  OriginGate(std::string_view listen_address, const std::vector<std::string>& hosts, std::vector<std::string> origins);

  // Errors: kInvalidArgument (a host that is not allowed; a request that changes something, predictions included, from
  // a page of another origin).
  [[nodiscard]] Result<void> check(const Request& request) const;

  // The request's Origin if it is one of `origins`: what its page may be told.
  [[nodiscard]] std::optional<std::string> allowed_origin(const Request& request) const;

 private:
  [[nodiscard]] bool host_allowed(std::string_view host) const;

  bool any_host_ = false;
  std::vector<std::string> hosts_;    // lower case
  std::vector<std::string> origins_;  // lower case
};

}  // namespace slipway::gateway

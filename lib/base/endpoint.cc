#include "lib/base/endpoint.h"

#include <arpa/inet.h>

#include <format>

namespace slipway {
namespace {

bool is_address(int family, std::string_view host) {
  in6_addr binary;  // has room for either
  return inet_pton(family, std::string(host).c_str(), &binary) == 1;
}

}  // namespace

std::string_view without_brackets(std::string_view host) {
  const bool has_them = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return has_them ? host.substr(1, host.size() - 2) : host;
}

std::string endpoint(std::string_view host, int port) {
  return is_ipv6(host) ? std::format("[{}]:{}", without_brackets(host), port) : std::format("{}:{}", host, port);
}

bool is_by_name(std::string_view endpoint) {
  const std::string_view host = endpoint.substr(0, endpoint.rfind(':'));
  return !is_address(AF_INET, host) && !is_ipv6(host);
}

bool is_ipv6(std::string_view host) { return is_address(AF_INET6, without_brackets(host)); }

}  // namespace slipway

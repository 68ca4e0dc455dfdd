#include "services/gateway/origin_gate.h"

#include <arpa/inet.h>

#include <algorithm>

namespace slipway::gateway {
namespace {

std::string lower(std::string_view text) {
  std::string lowered(text);
  for (char& c : lowered) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return lowered;
}

// "Example.org.:8080" as "example.org", "[::1]:80" as "::1".
std::string host_of(std::string_view authority) {
  if (authority.starts_with('[')) return lower(authority.substr(1, authority.find(']') - 1));
  if (std::ranges::count(authority, ':') == 1) authority = authority.substr(0, authority.find(':'));
  if (authority.ends_with('.')) authority.remove_suffix(1);
  return lower(authority);
}

// Names below localhost never leave a browser's machine.
bool is_loopback(const std::string& host) {
  if (host == "localhost" || host.ends_with(".localhost") || host == "::1") return true;
  in_addr address{};
  return inet_pton(AF_INET, host.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

}  // namespace

OriginGate::OriginGate(std::string_view listen_address, const std::vector<std::string>& hosts,
                       std::vector<std::string> origins)
    : any_host_(hosts.empty() && !is_loopback(host_of(listen_address))), origins_(std::move(origins)) {
  for (const auto& host : hosts) hosts_.push_back(host_of(host));
  for (auto& origin : origins_) {
    origin = lower(origin);
    if (origin.ends_with('/')) origin.pop_back();
  }
}

bool OriginGate::host_allowed(std::string_view host) const {
  const std::string name = host_of(host);
  return is_loopback(name) || std::ranges::any_of(hosts_, [&](const std::string& allowed) {
           if (allowed == "*" || allowed == name) return true;
           return allowed.starts_with("*.") && name.ends_with(std::string_view(allowed).substr(1));
         });
}

std::optional<std::string> OriginGate::allowed_origin(const Request& request) const {
  if (origins_.empty()) return std::nullopt;
  const std::string_view origin = request.header("Origin");
  if (origin.empty() || !std::ranges::contains(origins_, lower(origin))) return std::nullopt;
  return std::string(origin);
}

Result<void> OriginGate::check(const Request& request) const {
  // No host at all is HTTP/1.0, which no browser speaks.
  if (!any_host_ && !request.host.empty() && !host_allowed(request.host)) {
    return fail(Code::kInvalidArgument,
                std::format("host '{}' is not served here; --allowed-hosts names those that are, beside loopback ones",
                            request.host));
  }
  const std::string_view origin = request.header("Origin");
  const std::string_view site = request.header("Sec-Fetch-Site");
  if ((origin.empty() && site.empty()) || allowed_origin(request)) return {};
  // Of what a page may fetch from anywhere, /predict alone makes somebody work.
  const bool reads = request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS";
  if (reads && percent_decode(request.path, false).value_or("") != "/predict") return {};
  const std::size_t scheme = origin.find("://");
  const bool own = origin.empty() ||
                   (scheme != std::string_view::npos && equals_ignoring_case(origin.substr(scheme + 3), request.host));
  const bool same_site =
      site.empty() || equals_ignoring_case(site, "same-origin") || equals_ignoring_case(site, "none");
  if (own && same_site) return {};
  return fail(Code::kInvalidArgument,
              std::format("a page of another origin{} may not do this; --allowed-origins names those that may",
                          origin.empty() ? std::string() : std::format(", '{}',", origin)));
}

}  // namespace slipway::gateway

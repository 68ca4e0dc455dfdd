#include "services/gateway/route_table.h"

#include <algorithm>
#include <array>

namespace slipway::gateway {
namespace {

constexpr std::size_t kMostSegments = 12;

// Splits "/a/b" into its segments; returns how many, or kMostSegments + 1 when there are more.
std::size_t split(std::string_view path, std::array<std::string_view, kMostSegments>& segments) {
  std::size_t count = 0;
  if (path.starts_with('/')) path.remove_prefix(1);
  if (path.empty()) return 0;
  while (true) {
    if (count == kMostSegments) return kMostSegments + 1;
    const std::size_t slash = path.find('/');
    segments[count++] = path.substr(0, slash);
    if (slash == std::string_view::npos) return count;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace

std::vector<RouteTable::Segment> RouteTable::parse(std::string_view pattern) {
  std::array<std::string_view, kMostSegments> texts;
  const std::size_t count = split(pattern, texts);
  std::vector<Segment> segments;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view text = texts[i];
    const std::size_t close = text.find('}');
    if (text.starts_with('{') && close != std::string_view::npos) {
      segments.push_back(
          {.literal = {}, .name = std::string(text.substr(1, close - 1)), .verb = std::string(text.substr(close + 1))});
    } else {
      segments.push_back({.literal = std::string(text), .name = {}, .verb = {}});
    }
  }
  return segments;
}

void RouteTable::add(Route route) {
  patterns_.push_back(parse(route.pattern));
  route.metrics = &metrics().of(route.method, route.pattern);
  routes_.push_back(std::move(route));
}

RouteTable::Match RouteTable::find(std::string_view method, std::string_view path) const {
  std::array<std::string_view, kMostSegments> segments;
  const std::size_t count = split(path, segments);
  Match match;
  match.status = 404;
  std::vector<std::string_view> allowed;
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    const auto& pattern = patterns_[i];
    if (pattern.size() != count) continue;
    bool fits = true;
    for (std::size_t s = 0; fits && s < count; ++s) {
      const Segment& wanted = pattern[s];
      if (wanted.name.empty()) {
        fits = segments[s] == wanted.literal;
      } else if (wanted.verb.empty()) {
        fits = !segments[s].empty();
      } else {
        fits = segments[s].size() > wanted.verb.size() &&
               equals_ignoring_case(segments[s].substr(segments[s].size() - wanted.verb.size()), wanted.verb);
      }
    }
    if (!fits) continue;
    const Route& route = routes_[i];
    if (route.method != method && !(method == "HEAD" && route.method == "GET")) {
      if (std::ranges::find(allowed, route.method) == allowed.end()) allowed.push_back(route.method);
      continue;
    }
    for (std::size_t s = 0; s < count; ++s) {
      const Segment& wanted = pattern[s];
      if (wanted.name.empty()) continue;
      auto value = percent_decode(segments[s].substr(0, segments[s].size() - wanted.verb.size()), false);
      if (!value) return {.route = nullptr, .params = {}, .status = 400, .allow = {}};
      match.params.emplace_back(wanted.name, std::move(*value));
    }
    match.route = &route;
    match.status = 200;
    return match;
  }
  if (!allowed.empty()) {
    match.status = 405;
    for (const auto& name : allowed) {
      if (!match.allow.empty()) match.allow += ", ";
      match.allow += name == "GET" ? std::string("GET, HEAD") : std::string(name);
    }
  }
  return match;
}

Dialect dialect_of(std::string_view path) {
  const auto under = [&](std::string_view root) {
    return path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
  };
  if (under("/v1")) return Dialect::kTensorFlow;
  if (under("/v2")) return Dialect::kOpenInference;
  if (under("/predict")) return Dialect::kPlain;
  return Dialect::kOwn;
}

}  // namespace slipway::gateway

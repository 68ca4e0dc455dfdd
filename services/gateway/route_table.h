// Which handler a request goes to. No I/O in here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "services/gateway/http_message.h"
#include "services/gateway/metrics.h"

namespace slipway::gateway {

// In whose shape an answer is given, errors above all.
enum class Dialect : std::uint8_t { kOwn, kTensorFlow, kOpenInference, kPlain };

enum class BodyPolicy : std::uint8_t { kNone, kMemory, kStream };

struct Route {
  std::string method;
  // Segments are literals, "{name}", or "{name}:verb" (the verb in any case), e.g. "/v1/models/{model}:predict".
  std::string pattern;
  Dialect dialect = Dialect::kOwn;
  BodyPolicy body = BodyPolicy::kNone;
  bool changes = false;                            // logged at info, the others at debug
  const Metrics::RouteMetrics* metrics = nullptr;  // filled in by add()
  Handler handler;
};

class RouteTable {
 public:
  void add(Route route);

  // A route, or what to say instead. 404: no pattern fits; 405: `allow` lists the methods of those that do; 400: the
  // path has a broken escape. HEAD finds GET's route.
  struct Match {
    const Route* route = nullptr;
    Params params;
    int status = 200;
    std::string allow;
  };
  [[nodiscard]] Match find(std::string_view method, std::string_view path) const;

  [[nodiscard]] const std::vector<Route>& routes() const { return routes_; }

 private:
  struct Segment {
    std::string literal;  // when `name` is empty
    std::string name;
    std::string verb;  // with its colon
  };
  static std::vector<Segment> parse(std::string_view pattern);

  std::vector<Route> routes_;
  std::vector<std::vector<Segment>> patterns_;  // of routes_, same order
};

// By the path alone, for errors that come before a route is known.
[[nodiscard]] Dialect dialect_of(std::string_view path);

}  // namespace slipway::gateway

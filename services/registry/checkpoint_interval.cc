#include "services/registry/checkpoint_interval.h"

#include <boost/json.hpp>
#include <cmath>

namespace slipway::registry {

std::chrono::milliseconds checkpoint_interval(std::string_view document, std::chrono::milliseconds otherwise) {
  boost::system::error_code wrong;
  const auto whole = boost::json::parse(document, wrong);
  if (wrong || !whole.is_object()) return otherwise;
  const auto* wish = whole.get_object().if_contains("checkpoint_seconds");
  if (wish == nullptr || !wish->is_number()) return otherwise;
  const auto seconds = wish->to_number<double>(wrong);
  if (wrong || !std::isfinite(seconds) || seconds <= 0 || seconds > 1e6) return otherwise;
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

}  // namespace slipway::registry

#include "cli/json_path.h"

#include <charconv>
#include <format>
#include <ranges>

namespace slipway::cli {

Result<void> set_value(boost::json::value& document, std::string_view assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return fail(Code::kInvalidArgument, std::format("'{}': wanted path=value, e.g. fit.epochs=10", assignment));
  }
  const std::string_view path = assignment.substr(0, equals), text = assignment.substr(equals + 1);

  boost::json::value* at = &document;
  for (const auto part : path | std::views::split('.')) {
    const std::string_view step(part.begin(), part.end());
    if (step.empty()) return fail(Code::kInvalidArgument, std::format("'{}': the path has an empty step", path));
    if (at->is_null()) at->emplace_object();
    if (auto* object = at->if_object()) {
      at = &(*object)[step];
    } else if (auto* list = at->if_array()) {
      std::size_t index = 0;
      const auto [stopped, error] = std::from_chars(step.data(), step.data() + step.size(), index);
      if (error != std::errc() || stopped != step.data() + step.size() || index > list->size()) {
        return fail(Code::kInvalidArgument,
                    std::format("'{}': '{}' is not an index of a list of {}", path, step, list->size()));
      }
      if (index == list->size()) list->emplace_back(nullptr);
      at = &(*list)[index];
    } else {
      return fail(Code::kInvalidArgument, std::format("'{}': there is nothing under '{}' to set '{}' in", path,
                                                      boost::json::serialize(*at), step));
    }
  }
  boost::system::error_code not_json;
  boost::json::value value = boost::json::parse(text, not_json);
  if (not_json) value = boost::json::string(text.data(), text.size());
  *at = std::move(value);
  return {};
}

}  // namespace slipway::cli

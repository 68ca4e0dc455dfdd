#include "services/gateway/http_message.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace slipway::gateway {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

}  // namespace

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return lower(x) == lower(y); });
}

Result<std::string> percent_decode(std::string_view text, bool plus_is_blank) {
  std::string decoded;
  decoded.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%') {
      const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
      if (high < 0 || low < 0)
        return fail(Code::kInvalidArgument, "a % in the URL is not followed by two hexadecimal digits");
      if (high == 0 && low == 0) return fail(Code::kInvalidArgument, "the URL contains a zero byte");
      decoded.push_back(static_cast<char>(high << 4 | low));
      i += 2;
    } else {
      decoded.push_back(plus_is_blank && text[i] == '+' ? ' ' : text[i]);
    }
  }
  return decoded;
}

std::string percent_encode(std::string_view text) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    const bool plain =
        (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) {
      encoded.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

bool clean_request_id(std::string_view text) {
  return !text.empty() && text.size() <= 64 &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f && c != '"'; });
}

std::string_view Request::header(std::string_view name) const {
  const auto found = std::ranges::find_if(headers, [&](const auto& h) { return equals_ignoring_case(h.first, name); });
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

namespace {

// Takes the first "name=value" off the front of `query`; the name is decoded, the value is not.
Result<std::pair<std::string, std::string_view>> next_parameter(std::string_view& query) {
  const std::string_view pair = query.substr(0, query.find('&'));
  query.remove_prefix(std::min(query.size(), pair.size() + 1));
  const std::size_t equals = pair.find('=');
  auto name = percent_decode(pair.substr(0, equals), true);
  if (!name) return std::unexpected(name.error());
  return std::pair(std::move(*name), equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1));
}

}  // namespace

Result<void> Request::check_query(std::span<const std::string_view> known) const {
  for (std::string_view rest = query; !rest.empty();) {
    const auto parameter = next_parameter(rest);
    if (!parameter) return std::unexpected(parameter.error());
    const auto& name = parameter->first;
    if (name.empty() || std::ranges::contains(known, std::string_view(name))) continue;
    std::string list;
    for (const auto& one : known) list += (list.empty() ? "" : ", ") + std::string(one);
    return fail(Code::kInvalidArgument,
                std::format("there is no query parameter '{}' here{}", name,
                            list.empty() ? std::string() : std::format("; there are {}", list)));
  }
  return {};
}

Result<std::optional<std::string>> Request::query_value(std::string_view name) const {
  for (std::string_view rest = query; !rest.empty();) {
    const auto parameter = next_parameter(rest);
    if (!parameter) return std::unexpected(parameter.error());
    if (parameter->first != name) continue;
    auto value = percent_decode(parameter->second, true);
    if (!value) return std::unexpected(value.error());
    return std::optional(std::move(*value));
  }
  return std::optional<std::string>();
}

Result<std::optional<std::uint64_t>> Request::query_number(std::string_view name) const {
  auto text = query_value(name);
  if (!text) return std::unexpected(text.error());
  if (!*text) return std::optional<std::uint64_t>();
  std::uint64_t number = 0;
  const char* end = (*text)->data() + (*text)->size();
  const auto parsed = std::from_chars((*text)->data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number >> 63 != 0) {
    return fail(Code::kInvalidArgument, std::format("query parameter {}: '{}' is not a whole number", name, **text));
  }
  return std::optional(number);
}

Response json_response(int status, std::string body) {
  Response response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

const std::string& Call::param(std::string_view name) const {
  const auto found = std::ranges::find(params, name, [](const auto& p) { return p.first; });
  if (found == params.end()) std::abort();  // a handler on a route without that parameter
  return found->second;
}

}  // namespace slipway::gateway

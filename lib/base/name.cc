#include "lib/base/name.h"

#include <algorithm>

namespace slipway {
namespace {

constexpr std::size_t kMaxBytes = 128;

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }
bool is_printable(char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; }

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxBytes && is_letter_or_digit(text[0]) &&
         std::ranges::all_of(text, [](char c) { return is_letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
}

Result<void> check_name(std::string_view what, std::string_view name) {
  if (is_name(name)) return {};
  const bool show = name.size() <= kMaxBytes && std::ranges::all_of(name, is_printable);
  const auto shown = show ? std::format("'{}'", name) : std::format("{} bytes", name.size());
  return fail(Code::kInvalidArgument,
              std::format("{} {}: wanted 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit",
                          what, shown));
}

}  // namespace slipway

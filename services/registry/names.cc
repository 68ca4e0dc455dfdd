#include "services/registry/names.h"

#include <algorithm>
#include <charconv>
#include <format>

#include "lib/base/name.h"
#include "lib/base/utf8.h"

namespace slipway::registry {
namespace {

constexpr std::size_t kNumberDigits = 20;

bool is_control(std::uint32_t point) { return (point < 0x20 && point != '\n' && point != '\t') || point == 0x7f; }

}  // namespace

Result<void> check_name(std::string_view what, std::string_view name) { return slipway::check_name(what, name); }

Result<void> check_text(std::string_view what, std::string_view text, std::size_t max_bytes) {
  if (text.size() > max_bytes) {
    return fail(Code::kTooLarge, std::format("{} has {} bytes, at most {} are taken", what, text.size(), max_bytes));
  }
  while (!text.empty()) {
    const auto character = take_character(text);
    if (!character.valid) return fail(Code::kInvalidArgument, std::format("{} is not UTF-8", what));
    if (is_control(character.point)) {
      return fail(Code::kInvalidArgument, std::format("{} holds control characters", what));
    }
  }
  return {};
}

Result<void> check_line(std::string_view what, std::string_view text, std::size_t max_bytes) {
  if (auto plain = check_text(what, text, max_bytes); !plain) return plain;
  if (text.find_first_of("\n\t") == std::string_view::npos) return {};
  return fail(Code::kInvalidArgument, std::format("{} holds line ends or tabs", what));
}

std::string plain_text(std::string_view text, std::size_t max_bytes) {
  std::string plain;
  while (!text.empty()) {
    const auto character = take_character(text);
    const std::string_view piece = !character.valid ? "?" : is_control(character.point) ? " " : character.bytes;
    if (plain.size() + piece.size() > max_bytes) break;
    plain += piece;
  }
  return plain;
}

JobId job_id(std::uint64_t number) { return JobId(std::format("job-{}", number)); }

Result<std::uint64_t> job_number(const JobId& id) {
  constexpr std::string_view kPrefix = "job-";
  const std::string& text = id.text();
  std::uint64_t number = 0;
  if (text.starts_with(kPrefix)) {
    const auto [end, error] = std::from_chars(text.data() + kPrefix.size(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size() && number > 0 && job_id(number) == id) return number;
  }
  const bool plain = check_line("id", text, 64).has_value();
  return fail(Code::kNotFound, plain ? std::format("there is no job '{}'", text) : std::string("there is no such job"));
}

std::string number_key(std::uint64_t number) { return std::format("{:020}", number); }

std::string numbered_key(std::string_view name, std::uint64_t number) { return std::format("{}/{:020}", name, number); }

bool is_version_word(std::string_view text) {
  return text == "latest" || std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

std::uint64_t number_of(std::string_view key) {
  std::uint64_t number = 0;
  const auto digits = key.substr(key.size() < kNumberDigits ? 0 : key.size() - kNumberDigits);
  std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return number;
}

std::string first_key(std::string_view name) { return std::string(name) + "/"; }
std::string end_key(std::string_view name) { return std::string(name) + "0"; }

}  // namespace slipway::registry

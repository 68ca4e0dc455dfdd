#include "services/inferencer/code_scan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <format>
#include <optional>

#include "services/inferencer/operator_list.h"

namespace slipway::inferencer {
namespace {

// Torch's compiler is recursive. What it prints itself stays far below these.
constexpr int kMaxBrackets = 200;
constexpr std::size_t kMaxIndent = 400;  // two spaces a block

std::unexpected<Error> refused(std::string_view why) {
  return fail(Code::kInvalidArgument, std::format("the TorchScript file is refused: {}", why));
}

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Names, and every other sign alone; without texts, comments, blanks and line ends, which may stand between any two.
class Tokens {
 public:
  explicit Tokens(std::string_view code) : code_(code) {}

  std::optional<std::string_view> next() {
    while (at_ < code_.size()) {
      const char c = code_[at_];
      if (is_name(c)) {
        const auto from = at_;
        while (at_ < code_.size() && is_name(code_[at_])) ++at_;
        return code_.substr(from, at_ - from);
      }
      if (c == '#') {
        at_ = std::min(code_.find('\n', at_), code_.size());
      } else if (c == '"' || c == '\'') {
        skip_text(c);
        return std::string_view("''");
      } else if (std::isspace(static_cast<unsigned char>(c)) != 0 || c == '\\') {
        if (c == '\n') count_indent();
        ++at_;
      } else {
        return code_.substr(at_++, 1);
      }
    }
    return std::nullopt;
  }
  std::size_t widest_indent() const { return widest_indent_; }

 private:
  void skip_text(char quote) {
    const std::string three(3, quote);
    if (code_.substr(at_).starts_with(three)) {
      const auto end = code_.find(three, at_ + 3);
      at_ = end == std::string_view::npos ? code_.size() : end + 3;
      return;
    }
    for (++at_; at_ < code_.size() && code_[at_] != quote && code_[at_] != '\n'; ++at_) {
      if (code_[at_] == '\\') ++at_;
    }
    at_ = std::min(at_ + 1, code_.size());
  }
  void count_indent() {
    auto to = at_ + 1;
    while (to < code_.size() && (code_[to] == ' ' || code_[to] == '\t')) ++to;
    if (to < code_.size() && code_[to] != '\n') widest_indent_ = std::max(widest_indent_, to - at_ - 1);
  }

  std::string_view code_;
  std::size_t at_ = 0;
  std::size_t widest_indent_ = 0;
};

// The last six tokens: ops . SPACE . NAME ( is the longest that is looked for.
class Window {
 public:
  void push(std::string_view token) {
    for (std::size_t i = 0; i + 1 < tokens_.size(); ++i) tokens_[i] = tokens_[i + 1];
    tokens_.back() = token;
  }
  // Counted from the newest, which is 0.
  std::string_view back(std::size_t i) const { return tokens_[tokens_.size() - 1 - i]; }

 private:
  std::array<std::string_view, 7> tokens_{};
};

}  // namespace

Result<void> scan_code(const std::string& file, std::string_view code) {
  for (const std::string_view hook : {"__setstate__", "__getstate__"}) {
    if (code.contains(hook))
      return refused(std::format("{} defines {}, which runs while the file is loaded", file, hook));
  }
  if (code.contains('\0')) return refused(std::format("{} holds a zero byte", file));

  Tokens tokens(code);
  Window seen;
  int brackets = 0;
  while (const auto token = tokens.next()) {
    seen.push(*token);
    if (*token == "(" || *token == "[" || *token == "{") {
      if (++brackets > kMaxBrackets) return refused(std::format("{} nests more than {} brackets", file, kMaxBrackets));
    } else if (*token == ")" || *token == "]" || *token == "}") {
      --brackets;
    }
    // Classes of torch's own, in C++: their state would be read by native code.
    if (seen.back(2) == "torch" && seen.back(1) == "." && seen.back(0) == "classes")
      return refused(std::format("{} names torch.classes", file));
    if (*token != "(") continue;
    const auto name = seen.back(1);
    if (name.empty() || !is_name(name[0]) || seen.back(2) != ".") continue;
    if (seen.back(3) == "torch" && seen.back(4) != ".") {
      if (!is_allowed_name("aten", name))
        return refused(
            std::format("{} calls torch.{}, which is not on the list of operators that a model may use", file, name));
    } else if (seen.back(4) == "." && seen.back(5) == "ops" && seen.back(6) != ".") {
      if (!is_callable_name(seen.back(3), name))
        return refused(std::format("{} calls ops.{}.{}, which is not on the list of operators that a model may use",
                                   file, seen.back(3), name));
    }
  }
  if (tokens.widest_indent() > kMaxIndent)
    return refused(std::format("{} nests blocks {} columns deep", file, tokens.widest_indent()));
  return {};
}

}  // namespace slipway::inferencer

// A pull reader of JSON for bodies that are mostly numbers: no document is built. No I/O in here.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::gateway {

// Reads values in order. Every error is kInvalidArgument and names the byte where it is; after one the reader is of no
// further use. Nesting is bounded. `text` must outlive the reader.
class JsonReader {
 public:
  static constexpr int kMaxDepth = 32;

  explicit JsonReader(std::string_view text, bool nonfinite_tokens = false)
      : text_(text), nonfinite_tokens_(nonfinite_tokens) {}

  // The next byte that is not blank, not taken; '\0' at the end.
  [[nodiscard]] char peek() {
    skip_blanks();
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  // Takes `wanted` when it is next.
  [[nodiscard]] bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  [[nodiscard]] Result<void> expect(char wanted);

  [[nodiscard]] Result<std::string> string();
  [[nodiscard]] Result<bool> boolean();
  [[nodiscard]] Result<std::int64_t> integer();

  // The text of a number or, where they are taken, NaN, Infinity and -Infinity.
  [[nodiscard]] Result<std::string_view> number();

  // Takes any value; returns its text.
  [[nodiscard]] Result<std::string_view> skip() { return skip(0); }

  // Nothing but blanks may follow.
  [[nodiscard]] Result<void> end();

  // Calls `member(key)` for each member of the object that is next; it must take the value.
  template <class Member>
  [[nodiscard]] Result<void> object(Member member) {
    if (auto open = expect('{'); !open) return open;
    if (take('}')) return {};
    while (true) {
      auto key = string();
      if (!key) return std::unexpected(std::move(key).error());
      if (auto colon = expect(':'); !colon) return colon;
      if (Result<void> taken = member(*key); !taken) return taken;
      if (take('}')) return {};
      if (!take(',')) return wrong("',' or '}'");
    }
  }

  // Calls `element()` for each element of the array that is next; it must take the value.
  template <class Element>
  [[nodiscard]] Result<void> array(Element element) {
    if (auto open = expect('['); !open) return open;
    if (take(']')) return {};
    while (true) {
      if (Result<void> taken = element(); !taken) return taken;
      if (take(']')) return {};
      if (!take(',')) return wrong("',' or ']'");
    }
  }

  [[nodiscard]] std::size_t position() const { return at_; }
  void seek(std::size_t position) { at_ = position; }
  [[nodiscard]] std::string_view text() const { return text_; }
  [[nodiscard]] bool nonfinite_tokens() const { return nonfinite_tokens_; }

  // What came instead of `wanted`.
  [[nodiscard]] std::unexpected<Error> wrong(std::string_view wanted);

 private:
  [[nodiscard]] Result<std::string_view> skip(int depth);
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  bool nonfinite_tokens_;
};

}  // namespace slipway::gateway

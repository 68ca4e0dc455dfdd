#include "services/gateway/json_reader.h"

#include <charconv>

namespace slipway::gateway {
namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, unsigned code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

}  // namespace

std::unexpected<Error> JsonReader::wrong(std::string_view wanted) {
  skip_blanks();
  std::string came = "the end";
  if (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    came = c > ' ' && c < 0x7f ? std::format("'{}'", text_[at_]) : std::format("byte 0x{:02x}", c);
  }
  return fail(Code::kInvalidArgument, std::format("JSON error at byte {}: {} came, {} was wanted", at_, came, wanted));
}

Result<void> JsonReader::expect(char wanted) {
  if (take(wanted)) return {};
  return wrong(std::format("'{}'", wanted));
}

Result<std::string> JsonReader::string() {
  if (!take('"')) return wrong("a string");
  std::string value;
  const auto hex4 = [&](unsigned& code) {
    if (at_ + 4 > text_.size()) return false;
    const auto parsed = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, code, 16);
    if (parsed.ec != std::errc() || parsed.ptr != text_.data() + at_ + 4) return false;
    at_ += 4;
    return true;
  };
  while (true) {
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
           static_cast<unsigned char>(text_[at_]) >= ' ')
      ++at_;
    value.append(text_.substr(begin, at_ - begin));
    if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < ' ') return wrong("the end of the string");
    if (text_[at_++] == '"') return value;
    if (at_ >= text_.size()) return wrong("an escape");
    switch (text_[at_++]) {
      case '"':
        value.push_back('"');
        break;
      case '\\':
        value.push_back('\\');
        break;
      case '/':
        value.push_back('/');
        break;
      case 'b':
        value.push_back('\b');
        break;
      case 'f':
        value.push_back('\f');
        break;
      case 'n':
        value.push_back('\n');
        break;
      case 'r':
        value.push_back('\r');
        break;
      case 't':
        value.push_back('\t');
        break;
      case 'u': {
        unsigned code = 0;
        if (!hex4(code)) return wrong("four hexadecimal digits");
        if (code >= 0xD800 && code < 0xDC00) {
          unsigned low = 0;
          if (!text_.substr(at_).starts_with("\\u")) return wrong("the second half of a surrogate pair");
          at_ += 2;
          if (!hex4(low) || low < 0xDC00 || low > 0xDFFF) return wrong("the second half of a surrogate pair");
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code < 0xE000) {
          return wrong("the first half of a surrogate pair");
        }
        append_utf8(value, code);
        break;
      }
      default:
        --at_;
        return wrong("one of the escapes of JSON");
    }
  }
}

Result<bool> JsonReader::boolean() {
  skip_blanks();
  if (text_.substr(at_).starts_with("true")) {
    at_ += 4;
    return true;
  }
  if (text_.substr(at_).starts_with("false")) {
    at_ += 5;
    return false;
  }
  return wrong("true or false");
}

Result<std::int64_t> JsonReader::integer() {
  skip_blanks();
  const std::size_t begin = at_;
  auto text = number();
  if (!text) return std::unexpected(std::move(text).error());
  std::int64_t value = 0;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), value);
  if (parsed.ec == std::errc() && parsed.ptr == text->data() + text->size()) return value;
  at_ = begin;
  return wrong("a whole number of 64 bits");
}

Result<std::string_view> JsonReader::number() {
  skip_blanks();
  const std::size_t begin = at_;
  const auto here = [&] { return at_ < text_.size() ? text_[at_] : '\0'; };
  if (here() == '-') ++at_;
  if (here() == 'N' || here() == 'I') {
    const std::string_view rest = text_.substr(at_);
    const std::size_t size = rest.starts_with("Infinity") ? 8 : rest.starts_with("NaN") && at_ == begin ? 3 : 0;
    if (size == 0) return wrong("a number");
    at_ = begin;
    if (!nonfinite_tokens_) return wrong("a finite number");
    at_ = begin + size + (text_[begin] == '-' ? 1 : 0);
    return text_.substr(begin, at_ - begin);
  }
  if (!digit(here())) return wrong("a number");
  if (here() == '0')
    ++at_;
  else
    while (digit(here())) ++at_;
  if (digit(here())) return wrong("a number without leading zeros");
  if (here() == '.') {
    ++at_;
    if (!digit(here())) return wrong("a digit");
    while (digit(here())) ++at_;
  }
  if (here() == 'e' || here() == 'E') {
    ++at_;
    if (here() == '+' || here() == '-') ++at_;
    if (!digit(here())) return wrong("a digit");
    while (digit(here())) ++at_;
  }
  return text_.substr(begin, at_ - begin);
}

Result<std::string_view> JsonReader::skip(int depth) {
  skip_blanks();
  const std::size_t begin = at_;
  if (depth > kMaxDepth) {
    return fail(Code::kInvalidArgument, std::format("JSON error at byte {}: nested deeper than {}", at_, kMaxDepth));
  }
  const auto inner = [&]() -> Result<void> {
    auto taken = skip(depth + 1);
    if (!taken) return std::unexpected(std::move(taken).error());
    return {};
  };
  Result<void> done;
  switch (peek()) {
    case '{':
      done = object([&](const std::string&) { return inner(); });
      break;
    case '[':
      done = array(inner);
      break;
    case '"':
      if (auto text = string(); !text) done = std::unexpected(std::move(text).error());
      break;
    case 't':
    case 'f':
      if (auto flag = boolean(); !flag) done = std::unexpected(std::move(flag).error());
      break;
    case 'n':
      if (!text_.substr(at_).starts_with("null")) return wrong("a value");
      at_ += 4;
      break;
    default:
      if (auto text = number(); !text) done = std::unexpected(std::move(text).error());
  }
  if (!done) return std::unexpected(std::move(done).error());
  return text_.substr(begin, at_ - begin);
}

Result<void> JsonReader::end() {
  if (peek() == '\0' && at_ >= text_.size()) return {};
  return wrong("the end");
}

}  // namespace slipway::gateway

#include "lib/keras/json_text.h"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parser.hpp>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace slipway::keras {
namespace {

namespace json = boost::json;

json::parse_options strict_options() {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  options.numbers = json::number_precision::precise;
  return options;
}

// Looks for a key that stands twice in one object: Boost.JSON keeps the last of them without a word, and then a
// document would mean something else here than where it was written.
class DuplicateFinder {
 public:
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);
  using Code = boost::system::error_code;

  explicit DuplicateFinder(std::string_view path) : root_(path) {}

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) { return open(false); }
  bool on_object_end(std::size_t, Code&) { return close(); }
  bool on_array_begin(Code&) { return open(true); }
  bool on_array_end(std::size_t, Code&) { return close(); }
  bool on_key_part(json::string_view part, std::size_t, Code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, std::size_t, Code& code) {
    key_.append(part.data(), part.size());
    Level& level = levels_.back();
    level.key = std::move(key_);
    key_.clear();
    if (level.keys.insert(level.key).second) return true;
    duplicate_ = path();
    code = json::make_error_code(json::error::syntax);
    return false;
  }
  bool on_string_part(json::string_view, std::size_t, Code&) { return true; }
  bool on_string(json::string_view, std::size_t, Code&) { return scalar(); }
  bool on_number_part(json::string_view, Code&) { return true; }
  bool on_int64(std::int64_t, json::string_view, Code&) { return scalar(); }
  bool on_uint64(std::uint64_t, json::string_view, Code&) { return scalar(); }
  bool on_double(double, json::string_view, Code&) { return scalar(); }
  bool on_bool(bool, Code&) { return scalar(); }
  bool on_null(Code&) { return scalar(); }
  bool on_comment_part(json::string_view, Code&) { return true; }
  bool on_comment(json::string_view, Code&) { return true; }

  [[nodiscard]] const std::optional<std::string>& duplicate() const { return duplicate_; }

 private:
  struct Level {
    bool list = false;
    std::size_t index = 0;
    std::string key;
    std::set<std::string, std::less<>> keys;
  };

  bool open(bool list) {
    levels_.push_back({.list = list, .index = 0, .key = {}, .keys = {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return scalar();
  }
  bool scalar() {
    if (!levels_.empty() && levels_.back().list) ++levels_.back().index;
    return true;
  }
  [[nodiscard]] std::string path() const {
    std::string text = root_;
    for (const Level& level : levels_) {
      text = level.list ? std::format("{}[{}]", text, level.index) : member_path(text, level.key);
    }
    return text;
  }

  std::string root_;
  std::string key_;
  std::vector<Level> levels_;
  std::optional<std::string> duplicate_;
};

std::string place(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t column = before.size() - (before.find_last_of('\n') + 1) + 1;  // npos + 1 is 0
  return std::format("line {}, column {}", line, column);
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::size_t kMost = 80;
  std::string out;
  bool cut = false;
  if (text.size() > kMost) {
    std::size_t end = kMost;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;  // not inside a character
    text = text.substr(0, end);
    cut = true;
  }
  out = text;
  std::ranges::replace_if(out, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, ' ');
  if (cut) out += "...";
  return out;
}

std::string member_path(std::string_view path, std::string_view key) {
  const auto plain = [](char c) {
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  if (!key.empty() && key.size() <= 80 && std::ranges::all_of(key, plain)) return std::format("{}.{}", path, key);
  return std::format("{}['{}']", path, printable(key));
}

Result<json::value> read_json(std::string_view text, std::string_view path) {
  const std::string where(path);
  if (text.size() > kMaxDocumentBytes) {
    return fail_at(where, Code::kTooLarge,
                   std::format("the document has {} bytes; the limit is {}", text.size(), kMaxDocumentBytes));
  }
  boost::system::error_code code;
  json::parser parser(json::storage_ptr(), strict_options());
  const std::size_t read = parser.write_some(text.data(), text.size(), code);
  if (code == json::error::too_deep) {
    return fail_at(where, Code::kInvalidArgument,
                   std::format("not read: nested deeper than {} levels at {}", kMaxDepth, place(text, read)));
  }
  if (code == json::error::incomplete) {
    return fail_at(where, Code::kInvalidArgument,
                   text.empty() ? "not JSON: the document is empty"
                                : std::format("not JSON: it ends early, at {}", place(text, text.size())));
  }
  if (code) {
    return fail_at(where, Code::kInvalidArgument, std::format("not JSON: {} at {}", code.message(), place(text, read)));
  }
  if (text.find_first_not_of(" \t\r\n", read) != std::string_view::npos) {
    return fail_at(where, Code::kInvalidArgument,
                   std::format("not JSON: more text after the value at {}", place(text, read)));
  }

  json::basic_parser<DuplicateFinder> finder(strict_options(), path);
  boost::system::error_code finder_code;
  finder.write_some(false, text.data(), text.size(), finder_code);
  if (const auto& twice = finder.handler().duplicate()) {
    return fail_at(*twice, Code::kInvalidArgument, "this key stands twice in one object");
  }
  return parser.release();
}

}  // namespace slipway::keras

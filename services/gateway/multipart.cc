#include "services/gateway/multipart.h"

#include <algorithm>

#include "services/gateway/http_message.h"

namespace slipway::gateway {

std::string field_parameter(std::string_view field, std::string_view name) {
  std::size_t at = field.find(';');
  while (at != std::string_view::npos && at < field.size()) {
    ++at;
    while (at < field.size() && (field[at] == ' ' || field[at] == '\t')) ++at;
    const std::size_t equals = field.find_first_of("=;", at);
    if (equals == std::string_view::npos) return {};
    if (field[equals] == ';') {
      at = equals;
      continue;
    }
    const std::string_view key = field.substr(at, equals - at);
    std::string value;
    at = equals + 1;
    if (at < field.size() && field[at] == '"') {
      for (++at; at < field.size() && field[at] != '"'; ++at) {
        if (field[at] == '\\' && at + 1 < field.size()) ++at;
        value.push_back(field[at]);
      }
      at = field.find(';', at);
    } else {
      const std::size_t end = std::min(field.find(';', at), field.size());
      value = field.substr(at, end - at);
      while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.pop_back();
      at = end == field.size() ? std::string_view::npos : end;
    }
    if (equals_ignoring_case(key, name)) return value;
  }
  return {};
}

Result<void> check_file_name(std::string_view filename) {
  const bool good =
      !filename.empty() && filename.size() <= 255 && filename != "." && filename != ".." &&
      std::ranges::none_of(filename, [](unsigned char c) { return c < ' ' || c == 0x7f || c == '/' || c == '\\'; });
  if (good) return {};
  return fail(Code::kInvalidArgument, "a file's name has 1 to 255 bytes without slashes or control characters");
}

MultipartParser::MultipartParser(std::string boundary) : delimiter_("\r\n--" + std::move(boundary)), held_("\r\n") {}

Result<std::string> MultipartParser::boundary_of(std::string_view content_type) {
  const std::string_view kind = content_type.substr(0, content_type.find(';'));
  if (!equals_ignoring_case(kind, "multipart/form-data")) {
    return fail(Code::kInvalidArgument, std::format("Content-Type '{}' is not multipart/form-data", kind));
  }
  std::string boundary = field_parameter(content_type, "boundary");
  const bool good = !boundary.empty() && boundary.size() <= 70 && boundary.back() != ' ' &&
                    std::ranges::all_of(boundary, [](char c) { return c >= ' ' && c < 0x7f; });
  if (!good) return fail(Code::kInvalidArgument, "Content-Type has no boundary of 1 to 70 characters");
  return boundary;
}

Result<PartHead> MultipartParser::parse_head(std::string_view text) const {
  PartHead head;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find("\r\n"), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(text.size(), end + 2));
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos)
      return fail(Code::kInvalidArgument, "a header of a form part is not NAME: VALUE");
    std::string_view value = line.substr(colon + 1);
    while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
    if (equals_ignoring_case(line.substr(0, colon), "Content-Disposition")) {
      head.name = field_parameter(value, "name");
      head.filename = field_parameter(value, "filename");
    } else if (equals_ignoring_case(line.substr(0, colon), "Content-Type")) {
      head.content_type = value;
    } else if (equals_ignoring_case(line.substr(0, colon), "Content-Transfer-Encoding") &&
               !equals_ignoring_case(value, "binary") && !equals_ignoring_case(value, "8bit") &&
               !equals_ignoring_case(value, "7bit")) {
      return fail(Code::kInvalidArgument, std::format("transfer encoding '{}' of a form part is not taken", value));
    }
  }
  if (head.name.empty()) return fail(Code::kInvalidArgument, "a form part has no name");
  return head;
}

Result<void> MultipartParser::push(std::string_view bytes, std::vector<PartPiece>& out) {
  // What was held back is short: it and the new bytes become one text.
  piece_ = std::move(held_);
  piece_ += bytes;
  held_.clear();
  std::string_view text = piece_;
  while (!text.empty()) {
    switch (state_) {
      case State::kPreamble:
      case State::kData: {
        const std::size_t found = text.find(delimiter_);
        const bool data = state_ == State::kData;
        if (found != std::string_view::npos) {
          if (data && found > 0)
            out.push_back({.kind = PartPiece::Kind::kData, .head = {}, .data = text.substr(0, found)});
          if (data) out.push_back({.kind = PartPiece::Kind::kEnd, .head = {}, .data = {}});
          text.remove_prefix(found + delimiter_.size());
          state_ = State::kAfterBoundary;
          break;
        }
        // The end may be the beginning of a delimiter.
        std::size_t keep = std::min(text.size(), delimiter_.size() - 1);
        while (keep > 0 && !std::string_view(delimiter_).starts_with(text.substr(text.size() - keep))) --keep;
        if (data && text.size() > keep)
          out.push_back({.kind = PartPiece::Kind::kData, .head = {}, .data = text.substr(0, text.size() - keep)});
        held_ = text.substr(text.size() - keep);
        return {};
      }
      case State::kAfterBoundary: {
        std::string_view rest = text;
        if (rest.starts_with("--")) {
          state_ = State::kEpilogue;
          break;
        }
        while (rest.starts_with(' ') || rest.starts_with('\t')) rest.remove_prefix(1);
        if (rest.size() < 2 && (rest.empty() || rest == "-" || rest == "\r")) {
          if (text.size() > kMaxHeadBytes) return fail(Code::kTooLarge, "a boundary line of the form is too long");
          held_ = text;
          return {};
        }
        if (!rest.starts_with("\r\n"))
          return fail(Code::kInvalidArgument, "a boundary of the form is not followed by a line end");
        // The line end stays: a head without any line is then an empty line at once.
        text = rest;
        state_ = State::kHead;
        break;
      }
      case State::kHead: {
        const std::size_t end = text.find("\r\n\r\n");
        if (end == std::string_view::npos) {
          if (text.size() > kMaxHeadBytes)
            return fail(Code::kTooLarge, std::format("the head of a form part is larger than {} bytes", kMaxHeadBytes));
          held_ = text;
          return {};
        }
        auto head = parse_head(end < 2 ? std::string_view() : text.substr(2, end - 2));
        if (!head) return std::unexpected(head.error());
        out.push_back({.kind = PartPiece::Kind::kBegin, .head = std::move(*head), .data = {}});
        text.remove_prefix(end + 4);
        state_ = State::kData;
        break;
      }
      case State::kEpilogue:
        return {};
    }
  }
  return {};
}

Result<void> MultipartParser::finish() const {
  if (state_ == State::kEpilogue) return {};
  return fail(Code::kInvalidArgument, "the form ends before its last boundary");
}

}  // namespace slipway::gateway

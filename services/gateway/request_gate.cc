#include "services/gateway/request_gate.h"

#include <algorithm>

#include "services/gateway/http_message.h"

namespace slipway::gateway {
namespace {

bool token_char(char c) {
  static constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || kOthers.contains(c);
}

bool is_token(std::string_view text) { return !text.empty() && std::ranges::all_of(text, token_char); }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Of "http://" or "https://" at the start of `target`; 0: neither.
std::size_t scheme_bytes(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (equals_ignoring_case(target.substr(0, scheme.size()), scheme)) return scheme.size();
  }
  return 0;
}

Result<bool> check_request_line(std::string_view line) {
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    return fail(Code::kInvalidArgument, "the request line is not METHOD TARGET VERSION");
  }
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(line.substr(0, first))) return fail(Code::kInvalidArgument, "the request's method is not a token");
  const bool printable = std::ranges::all_of(target, [](char c) { return c > ' ' && c < 0x7f; });
  const std::size_t scheme = scheme_bytes(target);
  // In absolute form a host follows, without a user.
  const std::string_view host = split_target(target).host;
  const bool formed = scheme == 0 ? target.starts_with('/') : !host.empty() && !host.contains('@');
  if (!printable || !formed) {
    return fail(Code::kInvalidArgument,
                "the request's target must be an absolute path, or http://HOST and a path, in printable ASCII");
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return fail(Code::kUnsupported, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  }
  return version == "HTTP/1.0";
}

}  // namespace

TargetParts split_target(std::string_view target) {
  TargetParts parts;
  if (const std::size_t scheme = scheme_bytes(target); scheme > 0) {
    target.remove_prefix(scheme);
    parts.host = target.substr(0, target.find_first_of("/?#"));
    target.remove_prefix(parts.host.size());
  }
  const std::size_t mark = target.find('?');
  parts.path = target.substr(0, mark);
  if (mark != std::string_view::npos) parts.query = target.substr(mark + 1);
  if (parts.path.empty()) parts.path = "/";
  return parts;
}

Result<std::size_t> header_end(std::string_view bytes, const GateLimits& limits) {
  for (std::size_t i = bytes.find('\n'); i != std::string_view::npos; i = bytes.find('\n', i + 1)) {
    if (i == 0 || bytes[i - 1] != '\r')
      return fail(Code::kInvalidArgument, "a line feed in the header without a carriage return");
    if (i >= 3 && bytes[i - 2] == '\n') {
      if (i + 1 > limits.max_header_bytes) break;
      return i + 1;
    }
  }
  if (bytes.size() >= limits.max_header_bytes) {
    return fail(Code::kTooLarge, std::format("the request header is larger than {} bytes", limits.max_header_bytes));
  }
  return 0;
}

Result<void> check_header(std::string_view header, const GateLimits& limits) {
  std::size_t fields = 0, hosts = 0, lengths = 0, codings = 0;
  std::size_t end = header.find("\r\n");
  if (end == std::string_view::npos) return fail(Code::kInvalidArgument, "the request line has no end");
  const auto old = check_request_line(header.substr(0, end));
  if (!old) return std::unexpected(old.error());

  for (std::size_t at = end + 2; at < header.size(); at = end + 2) {
    end = header.find("\r\n", at);
    if (end == std::string_view::npos || end == at) break;
    const std::string_view line = header.substr(at, end - at);
    if (++fields > limits.max_fields) {
      return fail(Code::kTooLarge, std::format("the request has more than {} header fields", limits.max_fields));
    }
    if (line.front() == ' ' || line.front() == '\t')
      return fail(Code::kInvalidArgument, "a header field is folded over two lines");
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
      return fail(Code::kInvalidArgument, "a header field is not NAME: VALUE");
    }
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trimmed(line.substr(colon + 1));
    const bool control =
        std::ranges::any_of(value, [](unsigned char c) { return (c < ' ' && c != '\t') || c == 0x7f; });
    if (control) return fail(Code::kInvalidArgument, std::format("header field {} has a control character", name));
    if (equals_ignoring_case(name, "Host")) {
      ++hosts;
      const bool blank = std::ranges::any_of(value, [](char c) { return c == ' ' || c == ',' || c == '\t'; });
      if (blank) return fail(Code::kInvalidArgument, "the Host field names more than one host");
    } else if (equals_ignoring_case(name, "Content-Length")) {
      ++lengths;
      const bool number = !value.empty() && value.size() <= 18 &&
                          std::ranges::all_of(value, [](char c) { return c >= '0' && c <= '9'; });
      if (!number) return fail(Code::kInvalidArgument, "Content-Length is not a number of bytes");
    } else if (equals_ignoring_case(name, "Transfer-Encoding")) {
      ++codings;
      if (!equals_ignoring_case(value, "chunked"))
        return fail(Code::kUnsupported, "the only transfer coding taken is: chunked");
    } else if (equals_ignoring_case(name, "Trailer")) {
      return fail(Code::kInvalidArgument, "trailers are not taken");
    }
  }
  if (*old ? hosts > 1 : hosts != 1) {
    return fail(Code::kInvalidArgument, std::format("a request has exactly one Host field, this one has {}", hosts));
  }
  if (lengths > 1) return fail(Code::kInvalidArgument, "the request has more than one Content-Length");
  if (codings > 1) return fail(Code::kInvalidArgument, "the request has more than one Transfer-Encoding");
  if (codings > 0 && lengths > 0)
    return fail(Code::kInvalidArgument, "the request has both Content-Length and Transfer-Encoding");
  if (codings > 0 && *old) return fail(Code::kInvalidArgument, "HTTP/1.0 has no Transfer-Encoding");
  return {};
}

Result<void> ChunkGate::on_chunk(std::size_t extension_bytes) const {
  if (extension_bytes <= limits_.max_chunk_extension_bytes) return {};
  return fail(Code::kInvalidArgument, std::format("a chunk extension of {} bytes; at most {} are taken",
                                                  extension_bytes, limits_.max_chunk_extension_bytes));
}

Result<void> ChunkGate::on_bytes(std::uint64_t raw, std::uint64_t data) {
  raw_ += raw;
  data_ += data;
  if (raw_ <= 2 * data_ + limits_.chunk_slack_bytes) return {};
  return fail(Code::kInvalidArgument, "the chunked body is mostly framing: send larger chunks");
}

}  // namespace slipway::gateway

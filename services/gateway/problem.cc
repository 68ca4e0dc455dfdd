#include "services/gateway/problem.h"

#include <boost/json.hpp>

namespace slipway::gateway {
namespace {

// The length of the UTF-8 sequence at the start of `text`; 0: it is not one.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto follows = [&](std::size_t i) { return i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!follows(1) || !follows(2)) return 0;
    if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F)) return 0;
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if ((first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

int status_of(Code code, Dialect dialect) {
  switch (code) {
    case Code::kInvalidArgument:
      return 400;
    case Code::kNotFound:
      return 404;
    case Code::kConflict:
      return 409;
    case Code::kOverloaded:
    case Code::kUnavailable:
      return 503;
    case Code::kDeadlineExceeded:
      return 504;
    case Code::kTooLarge:
      return 413;
    case Code::kUnsupported:
      return dialect == Dialect::kOpenInference ? 501 : 400;
    case Code::kDataLoss:
    case Code::kInternal:
      return 500;
  }
  return 500;
}

std::string_view reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 206:
      return "Partial Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 411:
      return "Length Required";
    case 412:
      return "Precondition Failed";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 416:
      return "Range Not Satisfiable";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

std::string json_quoted(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0)
      clean += "\xEF\xBF\xBD";
    else
      clean += text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return boost::json::serialize(boost::json::string(clean));
}

Response error_response(const Error& error, Dialect dialect, const Request& request) {
  return error_response(status_of(error.code, dialect), error, dialect, request);
}

Response error_response(int status, const Error& error, Dialect dialect, const Request& request) {
  Response response;
  response.status = status;
  if (dialect == Dialect::kOwn) {
    response.content_type = "application/problem+json";
    response.body =
        std::format(R"({{"type":"about:blank","title":{},"status":{},"code":"{}","detail":{},"instance":{})",
                    json_quoted(reason_of(status)), status, code_name(error.code), json_quoted(error.message),
                    json_quoted(request.path));
    if (!error.path.empty()) response.body += std::format(R"(,"path":{})", json_quoted(error.path));
    response.body += std::format(R"(,"request_id":{}}})", json_quoted(request.id));
  } else {
    const std::string where = error.path.empty() ? std::string() : std::format(" (at {})", error.path);
    response.body = std::format(R"({{"error":{}}})", json_quoted(error.message + where));
  }
  if (status == 503) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(error.retry_after).count();
    response.headers.emplace_back("Retry-After", std::to_string(std::max<std::int64_t>(seconds, 1)));
  }
  return response;
}

}  // namespace slipway::gateway

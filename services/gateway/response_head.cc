#include "services/gateway/response_head.h"

#include <charconv>
#include <ctime>

#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

// The Date field, worded anew each second.
std::string_view date_field() {
  thread_local std::time_t worded = 0;
  thread_local char text[64];
  thread_local std::size_t size = 0;
  const std::time_t now = std::time(nullptr);
  if (now != worded) {
    worded = now;
    std::tm parts{};
    gmtime_r(&now, &parts);
    size = std::strftime(text, sizeof text, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts);
  }
  return {text, size};
}

void append_number(std::string& out, std::uint64_t number) {
  char text[20];
  out.append(text, std::to_chars(text, text + sizeof text, number).ptr);
}

}  // namespace

void write_head(std::string& head, const Response& response, const Request& request, bool keep, bool old) {
  head.clear();
  head += "HTTP/1.1 ";
  append_number(head, static_cast<std::uint64_t>(response.status));
  head += ' ';
  head += reason_of(response.status);
  head += "\r\n";
  head += date_field();
  const bool empty = response.status == 204 || response.status == 304;
  if (!response.content_type.empty() && !empty && (!response.body.empty() || response.stream)) {
    head += "Content-Type: ";
    head += response.content_type;
    head += "\r\n";
  }
  if (!response.stream) {
    if (!empty) {
      head += "Content-Length: ";
      append_number(head, response.body.size());
      head += "\r\n";
    }
  } else if (response.stream_bytes) {
    head += "Content-Length: ";
    append_number(head, *response.stream_bytes);
    head += "\r\n";
  } else if (!old) {
    head += "Transfer-Encoding: chunked\r\n";
  }
  for (const auto& [name, value] : response.headers) {
    head += name;
    head += ": ";
    head += value;
    head += "\r\n";
  }
  if (!request.id.empty()) {
    head += "X-Request-Id: ";
    head += request.id;
    head += "\r\n";
  }
  if (!keep)
    head += "Connection: close\r\n";
  else if (old)
    head += "Connection: keep-alive\r\n";
  head += "\r\n";
}

}  // namespace slipway::gateway

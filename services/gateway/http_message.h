// A request as handlers see it and the answer they give, free of any HTTP library.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/error.h"
#include "services/gateway/memory_budget.h"
#include "services/gateway/task.h"

namespace slipway::gateway {

using Headers = std::vector<std::pair<std::string, std::string>>;

[[nodiscard]] bool equals_ignoring_case(std::string_view a, std::string_view b);

// Decodes %XX. Errors: kInvalidArgument (a broken escape, or a zero byte).
[[nodiscard]] Result<std::string> percent_decode(std::string_view text, bool plus_is_blank);

// Everything outside RFC 3986's unreserved characters as %XX.
[[nodiscard]] std::string percent_encode(std::string_view text);

// Whether the client's own id may be used as it is: 1 to 64 printable ASCII characters without blanks or quotes.
[[nodiscard]] bool clean_request_id(std::string_view text);

struct Request {
  std::string method;  // upper case
  std::string target;  // as sent
  std::string host;    // of the target when that is absolute, else of the Host field; with its port
  std::string path;    // `target` before "?", without scheme and host, still encoded
  std::string query;   // `target` after "?", still encoded
  Headers headers;
  std::string id;

  // The first header of that name; empty when there is none.
  [[nodiscard]] std::string_view header(std::string_view name) const;

  // Errors: kInvalidArgument (a query parameter that is none of `known`, or a broken escape).
  [[nodiscard]] Result<void> check_query(std::span<const std::string_view> known) const;

  // The decoded value of the first `name=` of the query. Errors: kInvalidArgument (a broken escape).
  [[nodiscard]] Result<std::optional<std::string>> query_value(std::string_view name) const;

  // The same as a number. Errors: kInvalidArgument (not a whole number below 2^63).
  [[nodiscard]] Result<std::optional<std::uint64_t>> query_number(std::string_view name) const;
};

// A request body that is read while it arrives.
class BodyReader {
 public:
  virtual ~BodyReader() = default;
  // The next bytes, valid until the next call; empty at the end. Errors: kTooLarge, kInvalidArgument (broken framing),
  // kDeadlineExceeded (too slow), kUnavailable (the client has gone).
  virtual Task<Result<std::span<const std::byte>>> next() = 0;
};

// An answer's body that is written while it is made.
class BodyWriter {
 public:
  virtual ~BodyWriter() = default;
  // False: the client has gone, write no more.
  virtual Task<bool> write(std::string_view bytes) = 0;
};

// Tells when the client hangs up before it was answered.
class ClientWatch {
 public:
  virtual ~ClientWatch() = default;
  // `gone` runs at most once, on the connection's thread, until unwatch().
  virtual void watch(std::function<void()> gone) = 0;
  virtual void unwatch() = 0;
};

struct Response {
  using Stream = std::function<Task<void>(BodyWriter&)>;

  int status = 200;
  std::string content_type = "application/json";
  Headers headers{};
  std::string body{};
  Stream stream{};                              // instead of `body`
  std::optional<std::uint64_t> stream_bytes{};  // its length; none: chunked
  bool close = false;                           // end the connection after it
};

[[nodiscard]] Response json_response(int status, std::string body);

// Path parameters by name, decoded.
using Params = std::vector<std::pair<std::string_view, std::string>>;

// One request on its way through a handler.
struct Call {
  Request request;
  Params params;
  std::string body;              // complete, for routes that take it in memory
  BodyReader* reader = nullptr;  // for routes that stream
  ClientWatch* client = nullptr;
  MemoryShare memory{};  // what the request and its answer take
  std::chrono::steady_clock::time_point received = std::chrono::steady_clock::now();  // with its body, if in memory

  // The value of a parameter that the route's pattern has.
  [[nodiscard]] const std::string& param(std::string_view name) const;
};

using Handler = std::function<Task<Response>(Call&)>;

}  // namespace slipway::gateway

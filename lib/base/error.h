// The one error type. A code says what the caller can do next; the message says what came and what was wanted.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <format>
#include <string>
#include <string_view>
#include <utility>

namespace slipway {

enum class Code : std::uint8_t {
  kInvalidArgument = 1,  // mend the request
  kNotFound,             // there is no such thing
  kConflict,             // it has changed meanwhile: read again
  kOverloaded,           // back off, then try again
  kUnavailable,          // try again, or elsewhere
  kDeadlineExceeded,     // the time was up
  kDataLoss,             // stored bytes are missing or damaged
  kInternal,             // a fault of ours
  kTooLarge,             // over a limit that the message names
  kUnsupported,          // well-formed, but not something Slipway does
};

// "not_found" and so on; "internal" for a number outside the list.
[[nodiscard]] std::string_view code_name(Code code);

struct Error {
  Code code = Code::kInternal;
  std::string message;
  std::string path;                          // JSON path of what is wrong in the asker's document; empty: none
  std::chrono::milliseconds retry_after{0};  // 0: not known
};

template <class T>
using Result = std::expected<T, Error>;

[[nodiscard]] inline std::unexpected<Error> fail(Code code, std::string message) {
  return std::unexpected(Error{.code = code, .message = std::move(message), .path = {}});
}

// The same, about the value at `path` of the asker's JSON document, e.g. "$.fit.epochs".
[[nodiscard]] inline std::unexpected<Error> fail_at(std::string path, Code code, std::string message) {
  return std::unexpected(Error{.code = code, .message = std::move(message), .path = std::move(path)});
}

}  // namespace slipway

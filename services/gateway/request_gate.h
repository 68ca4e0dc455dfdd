// What is refused before any routing: Beast 1.88 lets through framing on which a proxy in front may disagree with us
// (request smuggling), so the raw header is checked here first. No I/O in here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "lib/base/error.h"

namespace slipway::gateway {

struct GateLimits {
  std::size_t max_header_bytes = 16 << 10;
  std::size_t max_fields = 100;
  std::size_t max_chunk_extension_bytes = 128;
  std::size_t chunk_slack_bytes = 8 << 10;  // framing may take as many bytes as the data, and this
};

// Where a header ends: the bytes up to and with the first CRLF CRLF; 0: not all there yet.
// Errors: kInvalidArgument (a bare line feed, a control character), kTooLarge (over max_header_bytes without an end).
[[nodiscard]] Result<std::size_t> header_end(std::string_view bytes, const GateLimits& limits);

// `header` is a request line and fields, each ended by CRLF, and the empty line.
// Errors: kTooLarge (too many fields), kUnsupported (a transfer coding other than chunked, HTTP other than 1.0
// and 1.1), kInvalidArgument (not exactly one Host, both Content-Length and Transfer-Encoding, more than one of either,
// a length that is not a number, a folded line, chunked in HTTP/1.0, a malformed line or target).
[[nodiscard]] Result<void> check_header(std::string_view header, const GateLimits& limits);

// The parts of a target that check_header() has passed: an absolute path, or in absolute form, "http://host/path".
struct TargetParts {
  std::string_view host;  // empty: the Host field says
  std::string_view path;
  std::string_view query;
};
[[nodiscard]] TargetParts split_target(std::string_view target);

// Counts a chunked body's framing against its data.
class ChunkGate {
 public:
  explicit ChunkGate(const GateLimits& limits) : limits_(limits) {}

  // Errors: kInvalidArgument (the extension is over its limit).
  [[nodiscard]] Result<void> on_chunk(std::size_t extension_bytes) const;

  // `raw` bytes were taken from the connection and gave `data` bytes of body. Errors: kInvalidArgument (too much
  // framing).
  [[nodiscard]] Result<void> on_bytes(std::uint64_t raw, std::uint64_t data);

 private:
  const GateLimits limits_;
  std::uint64_t raw_ = 0;
  std::uint64_t data_ = 0;
};

}  // namespace slipway::gateway

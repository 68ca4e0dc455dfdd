// A push parser for multipart/form-data: takes the body in whatever pieces it comes. No I/O in here.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"

namespace slipway::gateway {

// One part's headers, as far as a form has them.
struct PartHead {
  std::string name;
  std::string filename;  // empty: a plain field
  std::string content_type;
};

// What a part begins, brings and ends with comes as a list of pieces, in order.
struct PartPiece {
  enum class Kind { kBegin, kData, kEnd } kind = Kind::kData;
  PartHead head;          // kBegin
  std::string_view data;  // kData; valid until the next push()
};

class MultipartParser {
 public:
  static constexpr std::size_t kMaxHeadBytes = 4096;

  explicit MultipartParser(std::string boundary);

  // The boundary of a Content-Type. Errors: kInvalidArgument (not multipart/form-data, no or a malformed boundary).
  [[nodiscard]] static Result<std::string> boundary_of(std::string_view content_type);

  // Takes the next bytes and appends what they bring. Errors: kInvalidArgument (not the form announced), kTooLarge (a
  // part's head over kMaxHeadBytes). After an error the parser is of no further use.
  [[nodiscard]] Result<void> push(std::string_view bytes, std::vector<PartPiece>& out);

  // The body ends here. Errors: kInvalidArgument (in the middle of the form).
  [[nodiscard]] Result<void> finish() const;

 private:
  enum class State { kPreamble, kAfterBoundary, kHead, kData, kEpilogue };
  [[nodiscard]] Result<PartHead> parse_head(std::string_view text) const;

  const std::string delimiter_;  // CRLF "--" boundary
  State state_ = State::kPreamble;
  std::string held_;   // bytes that cannot be judged without the next ones
  std::string piece_;  // backs the data of the last push()
};

// The value of `name=` in a header field like `form-data; name="a"; filename="b.csv"`; empty when absent.
[[nodiscard]] std::string field_parameter(std::string_view field, std::string_view name);

// `filename` may name a file of an upload: 1 to 255 bytes, no slash, no control character, not "." or "..".
// Errors: kInvalidArgument.
[[nodiscard]] Result<void> check_file_name(std::string_view filename);

}  // namespace slipway::gateway

// Lists cross the wire in pages that fit into an envelope. One rule for who makes a page and who reads it.
#pragma once

#include <cstddef>
#include <vector>

#include "lib/wire/codec.h"

namespace slipway {

// Counts what is put into a page: kPageBytes, and one large record on top.
class PageMeter {
 public:
  explicit PageMeter(std::size_t limit) : limit_(limit) {}

  // Returns whether another one may be put in.
  template <class Record>
  bool count(const Record& record) {
    ++items_;
    bytes_ += encoded_bytes(record);
    return items_ < limit_ && bytes_ < kPageBytes;
  }

 private:
  const std::size_t limit_;
  std::size_t items_ = 0;
  std::size_t bytes_ = 0;
};

// Whether more may follow a page that was asked for with `limit`; the next page may be empty. Half of the bytes count
// as full already: the other side's release may have encoded more fields than this one knows.
template <class Record>
[[nodiscard]] bool may_have_next(const std::vector<Record>& page, std::size_t limit) {
  if (page.size() >= limit) return true;
  std::size_t bytes = 0;
  for (const Record& record : page) bytes += encoded_bytes(record);
  return bytes >= kPageBytes / 2;
}

}  // namespace slipway

#include "services/gateway/byte_range.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

using Kind = ByteRange::Kind;

void expect(std::string_view header, std::uint64_t size, Kind kind, std::uint64_t first, std::uint64_t count) {
  const ByteRange range = parse_range(header, size);
  EXPECT_EQ(range.kind, kind) << header;
  EXPECT_EQ(range.first, first) << header;
  EXPECT_EQ(range.count, count) << header;
}

TEST(ByteRange, ReadsOneRange) {
  expect("bytes=0-0", 10, Kind::kPart, 0, 1);
  expect("bytes=3-", 10, Kind::kPart, 3, 7);
  expect("bytes=3-99", 10, Kind::kPart, 3, 7);
  expect("bytes=-4", 10, Kind::kPart, 6, 4);
  expect("bytes=-40", 10, Kind::kPart, 0, 10);
}
TEST(ByteRange, FindsTheUnsatisfiable) {
  expect("bytes=10-", 10, Kind::kUnsatisfiable, 0, 0);
  expect("bytes=-0", 10, Kind::kUnsatisfiable, 0, 0);
  expect("bytes=0-", 0, Kind::kUnsatisfiable, 0, 0);
}
TEST(ByteRange, TakesAnythingElseForTheWhole) {
  for (const char* header : {"", "bytes=", "bytes=5", "bytes=5-4", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=-",
                             "bytes=99999999999999999999-"}) {
    expect(header, 10, Kind::kWhole, 0, 10);
  }
}

}  // namespace
}  // namespace slipway::gateway

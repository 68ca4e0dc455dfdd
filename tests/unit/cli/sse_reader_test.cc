#include "cli/sse_reader.h"

#include <gmock/gmock.h>

namespace slipway::cli {
namespace {

using testing::ElementsAre;

std::vector<SseEvent> read_all(SseReader& reader, std::string_view bytes) {
  auto events = reader.push(bytes);
  EXPECT_TRUE(events);
  return events ? *events : std::vector<SseEvent>{};
}

constexpr std::string_view kStream =
    "\xEF\xBB\xBF: hello\n\n"
    "id: 7\r\nevent: progress\r\ndata: {\"a\":1}\r\n\r\n"
    "data:first\rdata: second\r\r"
    "id:8\nevent:state\ndata\ndata: x\nretry: 5\n\n"
    "event: dropped, it has no data\n\n"
    "data: after\n\n";

TEST(SseReader, ReadsTheSameEventsWhereverTheBytesAreSplit) {
  SseReader whole;
  const auto wanted = read_all(whole, kStream);
  ASSERT_THAT(wanted, ElementsAre(SseEvent{"7", "progress", "{\"a\":1}"}, SseEvent{"7", "message", "first\nsecond"},
                                  SseEvent{"8", "state", "\nx"}, SseEvent{"8", "message", "after"}));
  for (std::size_t first = 0; first <= kStream.size(); ++first) {
    for (std::size_t second = first; second <= kStream.size(); ++second) {
      SseReader reader;
      auto events = read_all(reader, kStream.substr(0, first));
      for (const auto& event : read_all(reader, kStream.substr(first, second - first))) events.push_back(event);
      for (const auto& event : read_all(reader, kStream.substr(second))) events.push_back(event);
      ASSERT_EQ(events, wanted) << "split at " << first << " and " << second;
    }
  }
}

TEST(SseReader, KeepsTheLastIdButNoHalfEventOverAReconnect) {
  SseReader reader;
  EXPECT_THAT(read_all(reader, "id: 3\ndata: a\n\ndata: half"), ElementsAre(SseEvent{"3", "message", "a"}));
  reader.reconnect();
  EXPECT_EQ(reader.last_id(), "3");
  EXPECT_THAT(read_all(reader, "data: b\n\n"), ElementsAre(SseEvent{"3", "message", "b"}));
}

TEST(SseReader, IgnoresAnIdWithANulByte) {
  SseReader reader;
  EXPECT_THAT(read_all(reader, std::string_view("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", 32)),
              ElementsAre(SseEvent{"1", "message", "a"}, SseEvent{"1", "message", "b"}));
}

TEST(SseReader, RefusesAnEventOverTheLimit) {
  SseReader reader(16);
  EXPECT_TRUE(reader.push("data: 0123456789"));
  const auto over = reader.push("x");
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().code, Code::kTooLarge);
}

TEST(SseReader, CountsTheLinesOfAnEventTogether) {
  SseReader reader(16);
  EXPECT_TRUE(reader.push("data: 01234567\n"));
  EXPECT_FALSE(reader.push("data: 01234567\n"));
}

}  // namespace
}  // namespace slipway::cli

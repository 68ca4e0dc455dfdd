#include "cli/text.h"

#include <gtest/gtest.h>

#include <limits>

namespace slipway::cli {
namespace {

using namespace std::chrono_literals;

TEST(Text, GivesSizesInBinaryUnits) {
  EXPECT_EQ(humane_bytes(0), "0 B");
  EXPECT_EQ(humane_bytes(1023), "1023 B");
  EXPECT_EQ(humane_bytes(1024), "1.0 KiB");
  EXPECT_EQ(humane_bytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(humane_bytes(26421856), "25.2 MiB");
  EXPECT_EQ(humane_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(Text, GroupsDigitsByThrees) {
  EXPECT_EQ(humane_count(0), "0");
  EXPECT_EQ(humane_count(999), "999");
  EXPECT_EQ(humane_count(1000), "1,000");
  EXPECT_EQ(humane_count(1234567), "1,234,567");
}

TEST(Text, GivesDurationsInTheirTwoLargestUnits) {
  EXPECT_EQ(humane_duration(0.44s), "0.4 s");
  EXPECT_EQ(humane_duration(9.94s), "9.9 s");
  EXPECT_EQ(humane_duration(9.96s), "10 s");
  EXPECT_EQ(humane_duration(59.4s), "59 s");
  EXPECT_EQ(humane_duration(59.6s), "1 min 0 s");
  EXPECT_EQ(humane_duration(3599s), "59 min 59 s");
  EXPECT_EQ(humane_duration(7500s), "2 h 5 min");
  EXPECT_EQ(humane_duration(100h), "4 d 4 h");
  EXPECT_EQ(humane_duration(-1s), "0.0 s");
}

TEST(Text, GivesRatesAndNumbersInFewDigits) {
  EXPECT_EQ(humane_rate(999.4), "999");
  EXPECT_EQ(humane_rate(41234), "41.2 k");
  EXPECT_EQ(humane_rate(1300000), "1.3 M");
  EXPECT_EQ(humane_number(0.41823), "0.4182");
  EXPECT_EQ(humane_number(24.1289), "24.1289");
  EXPECT_EQ(humane_number(1), "1.0000");
  EXPECT_EQ(humane_number(12345.6), "1.235e+04");
  EXPECT_EQ(humane_number(1e-5), "1e-05");
  EXPECT_EQ(humane_number(0), "0");
}

TEST(Text, ReadsUtcTimesAndNothingElse) {
  using namespace std::chrono;
  const auto time = parse_time("2026-01-02T03:04:05.678Z");
  ASSERT_TRUE(time);
  EXPECT_EQ(*time, sys_days(2026y / 1 / 2) + 3h + 4min + 5s + 678ms);
  EXPECT_EQ(parse_time("2026-01-02T03:04:05Z"), sys_days(2026y / 1 / 2) + 3h + 4min + 5s);
  for (const auto* text : {"", "Z", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02 noon Z", "null"}) {
    EXPECT_FALSE(parse_time(text)) << text;
  }
}

TEST(Text, SaysHowLongAgoATimeWas) {
  const auto now = *parse_time("2026-01-02T03:04:05Z");
  EXPECT_EQ(humane_time_ago("2026-01-02T03:04:04Z", now), "just now");
  EXPECT_EQ(humane_time_ago("2026-01-02T03:00:04Z", now), "4 min ago");
  EXPECT_EQ(humane_time_ago("2025-12-30T03:00:04Z", now), "3 d ago");
  EXPECT_EQ(humane_time_ago("2027-01-01T00:00:00Z", now), "just now");
  EXPECT_EQ(humane_time_ago("yesterday", now), "yesterday");
}

TEST(Text, ReplacesControlCharactersAndKeepsUtf8) {
  EXPECT_EQ(printable("a\tb\x7f\xC2\x9B"
                      "31m"),
            "a?b??31m");
  EXPECT_EQ(printable("Größe ━"), "Größe ━");
}

TEST(Text, QuotesWhatAPathSegmentCannotHold) {
  EXPECT_EQ(url_segment("fashion-mnist_2.v~"), "fashion-mnist_2.v~");
  EXPECT_EQ(url_segment("a/b c%?ß"), "a%2Fb%20c%25%3F%C3%9F");
}

}  // namespace
}  // namespace slipway::cli

#include "lib/base/readings.h"

#include <gtest/gtest.h>

#include <optional>

namespace slipway {
namespace {

std::optional<double> reading(const std::string& name) {
  for (const auto& value : Reading::all()) {
    if (value.name == name) return value.value;
  }
  return std::nullopt;
}

TEST(Reading, AddsUpWhatHasOneName) {
  const Reading first("test_bytes", "Help.", [] { return 2; });
  {
    const Reading second("test_bytes", "Help.", [] { return 3; });
    EXPECT_EQ(reading("test_bytes"), 5);
  }
  EXPECT_EQ(reading("test_bytes"), 2);
}

TEST(Reading, OfACounterStaysWhenWhoCountedHasGone) {
  {
    const Reading gone("test_things_total", "Help.", [] { return 7; });
  }
  EXPECT_EQ(reading("test_things_total"), 7);
  const Reading next("test_things_total", "Help.", [] { return 1; });
  EXPECT_EQ(reading("test_things_total"), 8);
}

}  // namespace
}  // namespace slipway

#include "lib/base/limit_watch.h"

#include <gmock/gmock.h>

#include <future>
#include <stdexcept>

namespace slipway {
namespace {

using namespace std::chrono_literals;

constexpr ProcessLimits kSmall{.cores = 1.5, .memory_bytes = 512 << 20, .memory_is_own = true};
constexpr ProcessLimits kLarge{.cores = 3, .memory_bytes = 1 << 30, .memory_is_own = true};

std::optional<double> reading(const std::string& name) {
  for (const auto& value : Reading::all()) {
    if (value.name == name) return value.value;
  }
  return std::nullopt;
}

TEST(LimitWatch, ShowsWhatThereIs) {
  const LimitWatch watch([](const ProcessLimits&) {}, [] { return kSmall; });
  EXPECT_EQ(watch.now(), kSmall);
  EXPECT_EQ(reading("slipway_cpu_limit_cores"), 1.5);
  EXPECT_EQ(reading("slipway_memory_limit_bytes"), 512 << 20);
}

TEST(LimitWatch, TellsOfAChangeOnce) {
  std::atomic<bool> resized = false;
  std::atomic<int> reads = 0;
  std::atomic<int> told = 0;
  std::promise<ProcessLimits> changed;
  std::promise<void> read_again;
  const LimitWatch watch(
      [&](const ProcessLimits& limits) {
        if (++told == 1) changed.set_value(limits);
      },
      [&] {
        if (told == 1 && ++reads == 5) read_again.set_value();
        return resized ? kLarge : kSmall;
      },
      1ms);
  resized = true;
  EXPECT_EQ(changed.get_future().get(), kLarge);
  EXPECT_EQ(watch.now(), kLarge);
  EXPECT_EQ(reading("slipway_cpu_limit_cores"), 3);
  read_again.get_future().wait();
  EXPECT_EQ(told, 1);
}

TEST(LimitWatch, GoesOnWhenWhoeverItAsksOrTellsThrows) {
  std::atomic<bool> resized = false;
  std::atomic<int> reads = 0;
  std::atomic<int> told = 0;
  std::promise<ProcessLimits> changed;
  const LimitWatch watch(
      [&](const ProcessLimits& limits) {
        if (++told == 1) throw std::runtime_error("not now");
        if (told == 2) changed.set_value(limits);
      },
      [&] {
        if (++reads == 2) throw std::runtime_error("unreadable");  // the first is the constructor's
        return resized ? kLarge : kSmall;
      },
      1ms);
  while (reads < 3) std::this_thread::yield();
  resized = true;
  EXPECT_EQ(changed.get_future().get(), kLarge);
}

TEST(LimitWatch, EndsWhileItWaits) {
  const LimitWatch watch([](const ProcessLimits&) {}, [] { return kSmall; }, 24h);
}

}  // namespace
}  // namespace slipway

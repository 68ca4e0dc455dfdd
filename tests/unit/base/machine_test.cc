#include "lib/base/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <thread>

namespace slipway {
namespace {

TEST(Machine, UsableCoresNeverExceedTheAffinityMask) {
  int cores = 0;
  std::thread([&] {
    cpu_set_t all;
    CPU_ZERO(&all);
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    int first = 0;
    while (!CPU_ISSET(first, &all)) ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    cores = usable_cores();
  }).join();
  EXPECT_EQ(cores, 1);
}

TEST(Machine, MemoryLeftIsThatOfThisMachine) {
  EXPECT_GT(memory_left(), std::uint64_t{64} << 20);
  EXPECT_LT(memory_left(), std::uint64_t{1} << 50);
}

TEST(Machine, LimitsAreThoseOfThisMachine) {
  const ProcessLimits limits = process_limits();
  EXPECT_GT(limits.cores, 0);
  EXPECT_GT(limits.memory_bytes, std::uint64_t{64} << 20);
  EXPECT_LT(limits.memory_bytes, std::uint64_t{1} << 50);
}

TEST(Machine, HasAName) { EXPECT_FALSE(host_name().empty()); }

TEST(Machine, RaisesTheSoftLimitOfDescriptorsToTheHardOne) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_max, 256);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(descriptor_limit(), low.rlim_cur);
  EXPECT_EQ(raise_descriptor_limit(), before.rlim_max);
  EXPECT_EQ(descriptor_limit(), before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace slipway

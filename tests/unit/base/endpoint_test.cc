#include "lib/base/endpoint.h"

#include <gtest/gtest.h>

namespace slipway {
namespace {

TEST(Endpoint, HasBracketsAroundAnIpv6AddressOnly) {
  EXPECT_EQ(endpoint("127.0.0.1", 80), "127.0.0.1:80");
  EXPECT_EQ(endpoint("registry.ml.svc.cluster.local.", 7071), "registry.ml.svc.cluster.local.:7071");
  EXPECT_EQ(endpoint("::1", 80), "[::1]:80");
  EXPECT_EQ(endpoint("[::]", 0), "[::]:0");
  EXPECT_EQ(without_brackets("[fd00::7]"), "fd00::7");
  EXPECT_EQ(without_brackets("fd00::7"), "fd00::7");
}

TEST(Endpoint, IsByNameUnlessItsHostIsAnAddress) {
  for (const char* address : {"127.0.0.1:80", "[::1]:80", "0.0.0.0:0", "[fd00::7]:7070"}) {
    EXPECT_FALSE(is_by_name(address)) << address;
  }
  for (const char* name : {"localhost:80", "registry.:7071", "10.0.0:80", "[registry]:80"}) {
    EXPECT_TRUE(is_by_name(name)) << name;
  }
}

}  // namespace
}  // namespace slipway

#include "services/gateway/route_table.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

struct RouteTableTest : testing::Test {
  RouteTable table;
  void SetUp() override {
    for (const char* route : {"GET /v1/models/{model}", "POST /v1/models/{model}:predict", "GET /predict",
                              "POST /predict", "PUT /a/{x}/b/{y}"}) {
      const std::string text = route;
      Route added;
      added.method = text.substr(0, text.find(' '));
      added.pattern = text.substr(text.find(' ') + 1);
      table.add(std::move(added));
    }
  }
};

TEST_F(RouteTableTest, FindsVerbsInAnyCase) {
  const auto match = table.find("POST", "/v1/models/m%3A1:PREDICT");
  ASSERT_NE(match.route, nullptr);
  EXPECT_EQ(match.route->pattern, "/v1/models/{model}:predict");
  EXPECT_EQ(match.params.at(0).second, "m:1");
}
TEST_F(RouteTableTest, DecodesSegmentsAfterSplitting) {
  const auto match = table.find("PUT", "/a/1%2F2/b/%C3%A9");
  ASSERT_NE(match.route, nullptr);
  EXPECT_EQ(match.params.at(0).second, "1/2");
  EXPECT_EQ(match.params.at(1).second, "\xC3\xA9");
  EXPECT_EQ(table.find("PUT", "/a/%zz/b/c").status, 400);
  EXPECT_EQ(table.find("PUT", "/a/%00/b/c").status, 400);
}
TEST_F(RouteTableTest, ListsWhatIsAllowed) {
  const auto match = table.find("PATCH", "/predict");
  EXPECT_EQ(match.status, 405);
  EXPECT_EQ(match.allow, "GET, HEAD, POST");
}
TEST_F(RouteTableTest, HeadFindsGet) { EXPECT_NE(table.find("HEAD", "/predict").route, nullptr); }
TEST_F(RouteTableTest, KnowsNoOtherPaths) {
  for (const char* path : {"/", "", "/predict/", "/v1/models/", "/a//b/c", "/a/b", "/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x"})
    EXPECT_EQ(table.find("GET", path).status, 404) << path;
}
TEST(RequestId, IsCleanOrMade) {
  EXPECT_TRUE(clean_request_id("abc-1"));
  EXPECT_FALSE(clean_request_id(""));
  EXPECT_FALSE(clean_request_id("a b"));
  EXPECT_FALSE(clean_request_id(std::string(65, 'a')));
  EXPECT_FALSE(clean_request_id("a\x01"));
}

}  // namespace
}  // namespace slipway::gateway

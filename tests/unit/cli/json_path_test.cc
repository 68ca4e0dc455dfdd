#include "cli/json_path.h"

#include <gtest/gtest.h>

namespace slipway::cli {
namespace {

std::string changed(std::string_view document, std::string_view assignment) {
  boost::json::value value = boost::json::parse(document);
  const auto done = set_value(value, assignment);
  return done ? boost::json::serialize(value) : "error";
}

TEST(JsonPath, ReplacesAValueWithJson) {
  EXPECT_EQ(changed(R"({"fit":{"epochs":5}})", "fit.epochs=10"), R"({"fit":{"epochs":10}})");
  EXPECT_EQ(changed(R"({"a":1})", "a=[1,2]"), R"({"a":[1,2]})");
  EXPECT_EQ(changed(R"({"a":1})", "a=true"), R"({"a":true})");
}

TEST(JsonPath, TakesWhatIsNotJsonForText) {
  EXPECT_EQ(changed(R"({"publish":{"model":"a"}})", "publish.model=fashion-2"), R"({"publish":{"model":"fashion-2"}})");
  EXPECT_EQ(changed(R"({"a":1})", "a="), R"({"a":""})");
  EXPECT_EQ(changed(R"({"a":1})", "a=b=c"), R"({"a":"b=c"})");
}

TEST(JsonPath, MakesObjectsOnTheWay) {
  EXPECT_EQ(changed("{}", "fit.validation_split=0.1"), R"({"fit":{"validation_split":1E-1}})");
}

TEST(JsonPath, TakesANumberForAnIndexOfAList) {
  EXPECT_EQ(changed(R"({"l":[{"u":1},{"u":2}]})", "l.1.u=3"), R"({"l":[{"u":1},{"u":3}]})");
  EXPECT_EQ(changed(R"({"l":[1]})", "l.1=2"), R"({"l":[1,2]})");
}

TEST(JsonPath, RefusesWhatIsNoPath) {
  for (const auto* assignment : {"fit.epochs", "=1", ".a=1", "a..b=1", "l.2=1", "l.x=1", "l.-1=1", "n.a=1"}) {
    EXPECT_EQ(changed(R"({"l":[1],"n":3})", assignment), "error") << assignment;
  }
}

}  // namespace
}  // namespace slipway::cli

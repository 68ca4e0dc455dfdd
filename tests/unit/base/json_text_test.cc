#include "lib/base/json_text.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <limits>

namespace slipway {
namespace {

TEST(JsonText, WritesNumbersAsPeopleDo) {
  const boost::json::value value{{"a", 29.5}, {"b", 1.0}, {"c", 7}, {"d", 0.001}, {"e", -0.5}, {"f", 1e300}};
  EXPECT_EQ(json_text(value), R"({"a":29.5,"b":1.0,"c":7,"d":0.001,"e":-0.5,"f":1e+300})");
}

TEST(JsonText, WritesWhatIsNoNumberAsNull) {
  EXPECT_EQ(
      json_text(boost::json::array{std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}),
      "[null,null]");
}

TEST(JsonText, KeepsEverythingElse) {
  const std::string text = R"({"q\"uote":"tab\t\u0001é","list":[null,true,false,[],{}],"n":18446744073709551615})";
  const auto value = boost::json::parse(text);
  EXPECT_EQ(boost::json::parse(json_text(value)), value);
}

}  // namespace
}  // namespace slipway

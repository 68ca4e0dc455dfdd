#include "services/gateway/repository_api.h"

#include <gmock/gmock.h>

#include <boost/json.hpp>

#include "services/gateway/model_serving.h"

namespace slipway::gateway {
namespace {

using testing::HasSubstr;

Model model(const std::string& name, std::uint64_t latest, bool unloaded = false) {
  Model made;
  made.name = name;
  made.latest = latest;
  made.unloaded = unloaded;
  return made;
}

TEST(RepositoryApi, ReadsAnIndexRequestWithAndWithoutABody) {
  EXPECT_FALSE(*read_index_request(""));
  EXPECT_FALSE(*read_index_request("{}"));
  EXPECT_TRUE(*read_index_request(R"({"ready":true})"));
  const auto wrong = read_index_request(R"({"ready":"yes"})");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "Invalid value for 'ready': expected a boolean");
  EXPECT_FALSE(read_index_request("[]"));
}

TEST(RepositoryApi, TakesWhatIsHarmlessAndRefusesWhatWouldChangeAModel) {
  EXPECT_TRUE(check_load_request(""));
  EXPECT_TRUE(check_load_request("{}"));
  EXPECT_TRUE(check_load_request(R"({"parameters":{}})"));
  for (const char* parameter : {R"("config":"{}")", R"("file:1/model.pt":"AAAA")", R"("other":1)"}) {
    const auto refused = check_load_request(std::format(R"({{"parameters":{{{}}}}})", parameter));
    ASSERT_FALSE(refused) << parameter;
    EXPECT_EQ(refused.error().code, Code::kUnsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("is not supported"));
  }
  EXPECT_EQ(check_load_request("nonsense").error().code, Code::kInvalidArgument);

  EXPECT_TRUE(check_unload_request(""));
  EXPECT_TRUE(check_unload_request(R"({"parameters":{"unload_dependents":true}})"));
  EXPECT_EQ(check_unload_request(R"({"parameters":{"unload_dependents":1}})").error().code, Code::kInvalidArgument);
  EXPECT_EQ(check_unload_request(R"({"parameters":{"x":1}})").error().code, Code::kUnsupported);
}

TEST(RepositoryApi, DesiresTheLatestAndTheAliasedVersionsOfAServedModel) {
  Model made = model("m", 5);
  made.aliases = {{"canary", 5}, {"prod", 2}};
  EXPECT_EQ(desired_versions(made), (std::vector<msg::VersionKey>{{"m", 2}, {"m", 5}}));
  made.unloaded = true;
  EXPECT_TRUE(desired_versions(made).empty());
  EXPECT_TRUE(desired_versions(model("n", 0)).empty());
}

TEST(RepositoryApi, TellsOfEachModelWhatInferencersHave) {
  const std::vector<Model> models{model("all", 1), model("none", 1), model("off", 3, true), model("one", 1),
                                  model("unborn", 0)};
  WorkerHub::Fleet fleet{.inferencers = 2, .loaded = {{{"all", 1}, 2}, {{"off", 3}, 1}, {{"one", 1}, 1}}};
  EXPECT_EQ(write_index(models, fleet, false),
            R"([{"name":"all","version":"1","state":"READY","reason":""},)"
            R"({"name":"none","version":"1","state":"LOADING","reason":"loaded by 0 of 2 inferencers"},)"
            R"({"name":"off","version":"3","state":"UNAVAILABLE","reason":"unloaded"},)"
            R"({"name":"one","version":"1","state":"READY","reason":"loaded by 1 of 2 inferencers"},)"
            R"({"name":"unborn"}])");
  EXPECT_EQ(write_index(models, fleet, true),
            R"([{"name":"all","version":"1","state":"READY","reason":""},)"
            R"({"name":"one","version":"1","state":"READY","reason":"loaded by 1 of 2 inferencers"}])");
  fleet = {};
  EXPECT_THAT(write_index(models, fleet, false), HasSubstr("no inferencer is connected"));
  EXPECT_EQ(write_index(models, fleet, true), "[]");
}

}  // namespace
}  // namespace slipway::gateway

#include "services/gateway/documents.h"

#include <gmock/gmock.h>

#include <limits>

namespace slipway::gateway {
namespace {

TEST(Documents, WritesTimesAndDigests) {
  EXPECT_EQ(time_json(1'769'860'800'123).as_string(), "2026-01-31T12:00:00.123Z");
  EXPECT_TRUE(time_json(0).is_null());
  Digest digest;
  digest.bytes[31] = 0xAB;
  EXPECT_EQ(digest_json(digest).as_string(), std::format("sha256:{:0>62}ab", ""));
}

TEST(Documents, WritesNanAsNull) {
  Progress progress;
  progress.metrics = {{.name = "loss", .value = std::numeric_limits<double>::quiet_NaN()}};
  EXPECT_TRUE(to_json(progress).at("metrics").at("loss").is_null());
  EXPECT_TRUE(to_json(progress).at("seconds_left").is_null());
}

TEST(Documents, WritesAJobWithItsDocument) {
  Job job;
  job.id = JobId("j1");
  job.state = JobState::kSucceeded;
  job.document = R"({"a":1})";
  job.version = 3;
  const auto object = to_json(job, true);
  EXPECT_EQ(object.at("state").as_string(), "SUCCEEDED");
  EXPECT_EQ(object.at("document").at("a").to_number<int>(), 1);
  EXPECT_EQ(object.at("version").to_number<int>(), 3);
  EXPECT_FALSE(to_json(job, false).contains("document"));
}

TEST(Documents, ReadsASignature) {
  const auto signature =
      parse_signature(R"({"inputs":[{"name":"x","dtype":"f32","shape":[-1,4]}],"classes":["a","b"]})");
  ASSERT_TRUE(signature) << signature.error().message;
  EXPECT_THAT(signature->inputs[0].shape, testing::ElementsAre(-1, 4));
  EXPECT_EQ(signature->classes.size(), 2U);
}

TEST(Documents, NamesThePathOfWhatIsWrongInASignature) {
  const auto path = [](std::string_view text) {
    const auto parsed = parse_signature(text);
    return parsed ? "parsed" : parsed.error().path;
  };
  EXPECT_EQ(path("{"), "$");
  EXPECT_EQ(path("[]"), "$");
  EXPECT_EQ(path("{}"), "$.inputs");
  EXPECT_EQ(path(R"({"inputs":[{"name":"x","dtype":"f31","shape":[1]}]})"), "$.inputs[0].dtype");
  EXPECT_EQ(path(R"({"inputs":[{"name":"x","dtype":"f32","shape":[0]}]})"), "$.inputs[0].shape");
  EXPECT_EQ(path(R"({"inputs":[{"name":"x","dtype":"f32"}]})"), "$.inputs[0].shape");
  EXPECT_EQ(path(R"({"input":[]})"), "$.input");
}

TEST(Documents, RefusesAKeyThatComesTwiceWhereverItIs) {
  const auto refusal = [](std::string_view text) {
    const auto parsed = parse_document(text);
    return parsed ? "parsed" : std::format("{}: {}", parsed.error().path, parsed.error().message);
  };
  EXPECT_EQ(refusal(R"({"version":1,"reason":"x","version":2})"), "$.version: the key comes twice");
  EXPECT_EQ(refusal(R"({"version":1,"v\u0065rsion":2})"), "$.version: the key comes twice");
  EXPECT_EQ(refusal(R"({"inputs":[{"name":"x"},{"shape":[1],"shape":[2]}]})"),
            "$.inputs[1].shape: the key comes twice");
  EXPECT_EQ(refusal(R"({"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":1}]})"), "parsed");
}

TEST(Documents, ShowsWhatALaterReleaseWroteByItsNumber) {
  EXPECT_EQ(state_name(static_cast<JobState>(9)), "unknown(9)");
  Job job;
  job.state = static_cast<JobState>(65'535);
  EXPECT_EQ(to_json(job, false).at("state").as_string(), "unknown(65535)");
  Signature signature;
  signature.inputs = {{.name = "x", .dtype = static_cast<DType>(10), .shape = {-1}}};
  EXPECT_EQ(to_json(signature).at("inputs").at(0).at("dtype").as_string(), "unknown(10)");
  Dataset dataset;
  dataset.dtype = static_cast<DType>(11);
  EXPECT_EQ(to_json(dataset).at("dtype").as_string(), "unknown(11)");
}

TEST(Documents, SaysThatAVersionIsQuarantinedOnlyWhenItIs) {
  Version version;
  EXPECT_FALSE(to_json(version).contains("quarantined"));
  version.quarantined = "it ended a process";
  EXPECT_EQ(to_json(version).at("quarantined").at("reason").as_string(), "it ended a process");
}

TEST(Documents, SaysWhoAskedWhereItIsKnown) {
  Job job;
  EXPECT_TRUE(to_json(job, false).at("actor").is_null());
  job.actor = "ann";
  EXPECT_EQ(to_json(job, false).at("actor").as_string(), "ann");
  Dataset dataset;
  dataset.actor = "ann";
  EXPECT_EQ(to_json(dataset).at("actor").as_string(), "ann");
}

TEST(Documents, RefusesDeepNesting) {
  EXPECT_FALSE(parse_document(std::format(R"({{"a":{:[>10000}{:]>10000}}})", "", "")));
}

}  // namespace
}  // namespace slipway::gateway

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
  EXPECT_EQ(digest_json(digest).as_string(), "sha256:" + std::string(62, '0') + "ab");
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

TEST(Documents, RefusesDeepNesting) {
  EXPECT_FALSE(parse_document("{\"a\":" + std::string(10'000, '[') + std::string(10'000, ']') + "}"));
}

}  // namespace
}  // namespace slipway::gateway

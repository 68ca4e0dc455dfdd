#include "services/gateway/problem.h"

#include <gmock/gmock.h>

#include <boost/json.hpp>

namespace slipway::gateway {
namespace {

TEST(Problem, MapsEveryCode) {
  const std::pair<Code, int> wanted[] = {
      {Code::kInvalidArgument, 400}, {Code::kNotFound, 404},         {Code::kConflict, 409}, {Code::kOverloaded, 503},
      {Code::kUnavailable, 503},     {Code::kDeadlineExceeded, 504}, {Code::kDataLoss, 500}, {Code::kInternal, 500},
      {Code::kTooLarge, 413},        {Code::kUnsupported, 400}};
  for (const auto& [code, status] : wanted) EXPECT_EQ(status_of(code, Dialect::kOwn), status) << code_name(code);
  EXPECT_EQ(status_of(Code::kUnsupported, Dialect::kOpenInference), 501);
}

TEST(Problem, OwnErrorsAreProblemDetailsWithThePath) {
  Request request;
  request.path = "/api/v1/jobs";
  request.id = "r1";
  const Response response = error_response(
      {.code = Code::kInvalidArgument, .message = "a \"b\" \xff", .path = "$.fit.epochs"}, Dialect::kOwn, request);
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.content_type, "application/problem+json");
  const auto body = boost::json::parse(response.body);
  EXPECT_EQ(body.at("path").as_string(), "$.fit.epochs");
  EXPECT_EQ(body.at("request_id").as_string(), "r1");
  EXPECT_EQ(body.at("detail").as_string(), "a \"b\" \xEF\xBF\xBD");
}

TEST(Problem, OverloadSaysWhenToComeBack) {
  const Response response = error_response(
      {.code = Code::kOverloaded, .message = "full", .path = {}, .retry_after = std::chrono::milliseconds(1500)},
      Dialect::kTensorFlow, {});
  EXPECT_EQ(response.status, 503);
  EXPECT_THAT(response.headers, testing::Contains(testing::Pair("Retry-After", "2")));
  EXPECT_EQ(response.body, R"({"error":"full"})");
}

}  // namespace
}  // namespace slipway::gateway

#include "services/inferencer/signature_check.h"

#include <gtest/gtest.h>

namespace slipway::inferencer {
namespace {

TensorSpec spec(std::string name, std::vector<std::int64_t> shape, DType dtype = DType::kF32) {
  return {.name = std::move(name), .dtype = dtype, .shape = std::move(shape)};
}
Frame floats(std::size_t count) { return Frame::of(std::vector<float>(count)); }

const Signature kTwo{
    .inputs = {spec("a", {-1, 2}), spec("b", {-1, 3})}, .outputs = {spec("y", {-1, 1})}, .classes = {}};

std::string message(std::vector<TensorSpec> specs, std::vector<Frame> frames, const Signature& signature = kTwo) {
  auto checked = check_inputs("m", signature, std::move(specs), std::move(frames));
  if (checked) return "taken";
  EXPECT_EQ(checked.error().code, Code::kInvalidArgument);
  return checked.error().message;
}

TEST(SignatureCheck, PutsInputsInTheSignaturesOrder) {
  const auto checked = check_inputs("m", kTwo, {spec("b", {4, 3}), spec("a", {4, 2})}, {floats(12), floats(8)});
  ASSERT_TRUE(checked);
  EXPECT_EQ(checked->rows, 4);
  EXPECT_EQ(checked->specs[0].name, "a");
  EXPECT_EQ(checked->frames[0].size(), 32U);
}

TEST(SignatureCheck, NamesTheInputsThatAreMissing) {
  EXPECT_EQ(
      message({spec("a", {1, 2})}, {floats(2)}),
      "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) ['b']. "
      "Please provide all required input(s).");
}

TEST(SignatureCheck, RefusesUnknownAndRepeatedNames) {
  EXPECT_EQ(message({spec("a", {1, 2}), spec("c", {1, 3})}, {floats(2), floats(3)}),
            "unexpected inference input 'c' for model 'm'. Wanted ['b'].");
  EXPECT_EQ(message({spec("a", {1, 2}), spec("a", {1, 2})}, {floats(2), floats(2)}),
            "input 'a' already exists in request");
}

TEST(SignatureCheck, RefusesAnotherElementType) {
  EXPECT_EQ(message({spec("a", {1, 2}, DType::kI64), spec("b", {1, 3})},
                    {Frame::of(std::vector<std::int64_t>(2)), floats(3)}),
            "inference input 'a' data-type is 'INT64', but model 'm' expects 'FP32'");
}

TEST(SignatureCheck, RefusesAnotherShape) {
  EXPECT_EQ(message({spec("a", {1, 3}), spec("b", {1, 3})}, {floats(3), floats(3)}),
            "unexpected shape for input 'a' for model 'm'. Expected [-1,2], got [1,3].");
  EXPECT_EQ(message({spec("a", {-1, 2}), spec("b", {1, 3})}, {floats(2), floats(3)}),
            "unexpected shape for input 'a' for model 'm'. Expected [-1,2], got [-1,2].");
}

TEST(SignatureCheck, RefusesTooFewAndTooManyBytes) {
  EXPECT_TRUE(message({spec("a", {1, 2}), spec("b", {1, 3})}, {floats(1), floats(3)})
                  .starts_with("unexpected size for input 'a'"));
  EXPECT_TRUE(message({spec("a", {1, 2}), spec("b", {1, 3})}, {floats(3), floats(3)})
                  .starts_with("unexpected additional input data for input 'a'"));
  EXPECT_TRUE(message({spec("a", {std::int64_t{1} << 61, 2}), spec("b", {1, 3})}, {{}, floats(3)})
                  .starts_with("unexpected size for input 'a'"));
}

TEST(SignatureCheck, RefusesNoRowsAndInputsThatDisagreeAboutRows) {
  EXPECT_EQ(message({spec("a", {0, 2}), spec("b", {0, 3})}, {{}, {}}), "input 'a' for model 'm' has no rows");
  EXPECT_EQ(message({spec("a", {2, 2}), spec("b", {1, 3})}, {floats(4), floats(3)}),
            "input 'b' for model 'm' has 1 rows, but 'a' has 2");
}

TEST(SignatureCheck, RefusesAFrameTooMany) {
  EXPECT_EQ(message({spec("a", {1, 2})}, {floats(2), floats(3)}),
            "the request names 1 inputs but carries 2 payload frames");
}

TEST(SignatureCheck, AFixedFirstDimensionIsNotABatch) {
  const Signature fixed{.inputs = {spec("a", {2})}, .outputs = {spec("y", {1})}, .classes = {}};
  EXPECT_FALSE(is_batchable(fixed));
  EXPECT_EQ(check_inputs("m", fixed, {spec("a", {2})}, {floats(2)})->rows, 1);
  EXPECT_TRUE(is_batchable(kTwo));
  EXPECT_FALSE(has_free_dimensions(kTwo));
  EXPECT_TRUE(has_free_dimensions({.inputs = {spec("a", {-1, -1})}, .outputs = {}, .classes = {}}));
}

const auto kUnknown = static_cast<DType>(99);

TEST(SignatureCheck, AnElementTypeOfALaterReleaseIsRefusedAndNamed) {
  const Signature later{.inputs = {spec("a", {-1, 2}, kUnknown)}, .outputs = {spec("y", {-1, 1})}, .classes = {}};
  const auto checked = check_inputs("m", later, {spec("a", {1, 2}, kUnknown)}, {floats(2)});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kUnsupported);
  EXPECT_TRUE(checked.error().message.contains("unknown(99)")) << checked.error().message;
  EXPECT_TRUE(message({spec("a", {1, 2}, kUnknown), spec("b", {1, 3})}, {floats(2), floats(3)})
                  .contains("data-type is 'unknown(99)'"));
  EXPECT_EQ(check_types(later).error().code, Code::kUnsupported);
  EXPECT_EQ(check_types({.inputs = {}, .outputs = {spec("y", {1}, kUnknown)}, .classes = {}}).error().code,
            Code::kUnsupported);
  EXPECT_TRUE(check_types(kTwo));
}

TEST(SignatureCheck, AnOutputUnlikeItsSignatureIsAFaultOfItsModel) {
  const Signature signature{.inputs = {spec("x", {-1, 2})}, .outputs = {spec("y", {-1, 3, -1})}, .classes = {}};
  struct Case {
    DType dtype;
    std::vector<std::int64_t> shape;
    bool good;
  };
  const std::vector<Case> cases{
      {DType::kF32, {4, 3, 5}, true},       {DType::kF64, {4, 3, 5}, false},    {kUnknown, {4, 3, 5}, false},
      {DType::kF32, {4, 3}, false},         {DType::kF32, {4, 3, 5, 1}, false}, {DType::kF32, {4, 2, 5}, false},
      {DType::kF32, {4, 0, 5}, false},      {DType::kF32, {3, 3, 5}, false},    {DType::kF32, {4, 3, 0}, true},
      {DType::kF32, {4, 3, 1 << 30}, true},
  };
  for (const Case& each : cases) {
    const auto checked = check_output(signature, 0, each.dtype, each.shape, 4);
    EXPECT_EQ(checked.has_value(), each.good) << testing::PrintToString(each.shape);
    if (!checked) {
      EXPECT_EQ(checked.error().code, Code::kInternal);
    }
  }
}

TEST(SignatureCheck, AnOutputWithoutElementsStandsForABoundedNumberOfLists) {
  const Signature free{.inputs = {spec("x", {-1, 2})}, .outputs = {spec("y", {-1, -1, -1})}, .classes = {}};
  EXPECT_TRUE(check_output(free, 0, DType::kF32, std::vector<std::int64_t>{1, 65'536, 0}, 1));
  EXPECT_FALSE(check_output(free, 0, DType::kF32, std::vector<std::int64_t>{1, 65'537, 0}, 1));
  EXPECT_FALSE(check_output(free, 0, DType::kF32, std::vector<std::int64_t>{2, std::int64_t{1} << 62, 0}, 2));
  // Nor does a signature that says so make it better.
  const Signature flood{.inputs = {spec("x", {-1, 2})}, .outputs = {spec("y", {-1, 100'000'000, 0})}, .classes = {}};
  EXPECT_FALSE(check_output(flood, 0, DType::kF32, std::vector<std::int64_t>{1, 100'000'000, 0}, 1));
}

}  // namespace
}  // namespace slipway::inferencer

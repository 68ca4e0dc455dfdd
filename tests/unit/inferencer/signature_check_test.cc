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

}  // namespace
}  // namespace slipway::inferencer

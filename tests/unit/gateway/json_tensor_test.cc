#include "services/gateway/json_tensor.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <random>

namespace slipway::gateway {
namespace {

Result<Tensor> parse(std::string_view text, DType dtype, bool nonfinite = false) {
  JsonReader json(text, nonfinite);
  TensorBuilder builder(dtype);
  auto read = builder.read(json);
  if (read) read = json.end();
  if (!read) return std::unexpected(read.error());
  return builder.finish("x");
}

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const auto* data = reinterpret_cast<const T*>(tensor.bytes.data());
  return {data, data + tensor.bytes.size() / sizeof(T)};
}

TEST(JsonTensor, InfersTheShape) {
  EXPECT_EQ(parse("5", DType::kF32)->spec.shape, Shape{});
  EXPECT_EQ(parse("[]", DType::kF32)->spec.shape, Shape{0});
  EXPECT_EQ(parse(" [ [1, 2.5],\n[3 ,4e0] , [-5,0.06E2]]", DType::kF32)->spec.shape, (Shape{3, 2}));
  EXPECT_EQ(parse("[[],[]]", DType::kF32)->spec.shape, (Shape{2, 0}));
  EXPECT_THAT(values<float>(*parse("[[1,2.5],[3,4e0],[-5,0.06E2]]", DType::kF32)),
              testing::ElementsAre(1, 2.5F, 3, 4, -5, 6));
}

TEST(JsonTensor, RefusesRaggedArraysAndSaysWhere) {
  for (const char* text : {"[[1,2],[3]]", "[1,[2]]", "[[1],2]", "[[[1]],[2]]", "[[],[1]]", "[[1],[]]", "[[],1]"}) {
    const auto parsed = parse(text, DType::kF32);
    ASSERT_FALSE(parsed) << text;
    EXPECT_THAT(parsed.error().message, testing::HasSubstr("byte ")) << text;
  }
}

TEST(JsonTensor, RefusesWhatIsNotJson) {
  for (const char* text :
       {"",     "[",     "[1",      "[1,",   "[1,]",       "[,1]",        "[01]",   "[1.]",   "[.5]",
        "[+1]", "[1e]",  "[-]",     "[0x1]", "[1 2]",      "[1]]",        "[true]", "[null]", "[\"1\"]",
        "[{}]", "[--1]", "[1e5e5]", "[NaN]", "[Infinity]", "[-Infinity]", "[nan]",  "]"}) {
    EXPECT_FALSE(parse(text, DType::kF32)) << text;
    EXPECT_FALSE(parse(text, DType::kI64)) << text;
  }
}

TEST(JsonTensor, TakesNonfiniteTokensWhereTheDialectHasThem) {
  const auto read = parse("[NaN,Infinity,-Infinity]", DType::kF32, true);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(std::isnan(values<float>(*read)[0]));
  EXPECT_EQ(values<float>(*read)[2], -std::numeric_limits<float>::infinity());
  EXPECT_FALSE(parse("[NaN]", DType::kI32, true));
  EXPECT_FALSE(parse("[-NaN]", DType::kF32, true));
}

TEST(JsonTensor, HoldsIntegersToTheirRange) {
  EXPECT_THAT(values<std::uint8_t>(*parse("[0,255]", DType::kU8)), testing::ElementsAre(0, 255));
  EXPECT_THAT(values<std::int64_t>(*parse("[-9223372036854775808,9223372036854775807]", DType::kI64)),
              testing::ElementsAre(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()));
  for (const char* text : {"[256]", "[-1]", "[1.0]", "[1e2]", "[0.5]", "[12345678901]"})
    EXPECT_FALSE(parse(text, DType::kU8)) << text;
  EXPECT_FALSE(parse("[128]", DType::kI8));
  EXPECT_FALSE(parse("[9223372036854775808]", DType::kI64));
  EXPECT_FALSE(parse("[2147483648]", DType::kI32));
}

TEST(JsonTensor, RefusesFloatsThatAreTooLargeAndRoundsTinyOnesToZero) {
  EXPECT_FALSE(parse("[1e39]", DType::kF32));
  EXPECT_FALSE(parse("[1e999]", DType::kF64));
  EXPECT_TRUE(parse("[1e39]", DType::kF64));
  EXPECT_EQ(values<float>(*parse("[1e-60]", DType::kF32))[0], 0.0F);
  EXPECT_EQ(values<double>(*parse("[1e-999]", DType::kF64))[0], 0.0);
  EXPECT_TRUE(std::signbit(values<float>(*parse("[-0]", DType::kF32))[0]));
}

TEST(JsonTensor, ReadsBooleans) {
  EXPECT_THAT(values<std::uint8_t>(*parse("[true,false]", DType::kB8)), testing::ElementsAre(1, 0));
}

TEST(JsonTensor, BoundsNesting) {
  EXPECT_TRUE(parse(std::string(16, '[') + "1" + std::string(16, ']'), DType::kF32));
  EXPECT_FALSE(parse(std::string(17, '[') + "1" + std::string(17, ']'), DType::kF32));
  EXPECT_FALSE(parse(std::string(10'000, '['), DType::kF32));
  JsonReader json(std::string_view("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["));
  EXPECT_FALSE(json.skip());
}

TEST(JsonTensor, PrintsFloatsThatReadBackBitForBit) {
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    std::string text;
    append_number(text, DType::kF32, reinterpret_cast<const std::byte*>(&value));
    const auto back = parse(text, DType::kF32);
    ASSERT_TRUE(back) << text;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(values<float>(*back)[0]), bits) << text;
  }
}

TEST(JsonTensor, PrintsNestedFlatAndByRow) {
  const Tensor tensor = *parse("[[1,2.5],[3,4]]", DType::kF32);
  std::string nested, flat, row;
  append_nested(nested, tensor.spec, tensor.bytes.bytes());
  append_flat(flat, tensor.spec, tensor.bytes.bytes());
  append_row(row, tensor.spec, tensor.bytes.bytes(), 1);
  EXPECT_EQ(nested, "[[1.0,2.5],[3.0,4.0]]");
  EXPECT_EQ(flat, "[1.0,2.5,3.0,4.0]");
  EXPECT_EQ(row, "[3.0,4.0]");
}

TEST(JsonTensor, RoundsHalfPrecision) {
  const Tensor tensor = *parse("[1.5,65504]", DType::kF16);
  EXPECT_EQ(item_as_double(DType::kF16, tensor.bytes.data() + 2), 65504);
  EXPECT_EQ(item_as_double(DType::kBf16, parse("[1.5]", DType::kBf16)->bytes.data()), 1.5);
}

TEST(JsonReader, DecodesStrings) {
  JsonReader json(R"("a\"\\\/\n\u00e9\ud83d\ude00")");
  EXPECT_EQ(json.string().value(), "a\"\\/\n\u00e9\U0001F600");
  for (const char* text : {"\"a", "\"\\x\"", "\"\\u12\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\n\""}) {
    JsonReader bad{std::string_view(text)};
    EXPECT_FALSE(bad.string()) << text;
  }
}

}  // namespace
}  // namespace slipway::gateway

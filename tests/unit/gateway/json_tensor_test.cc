#include "services/gateway/json_tensor.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstdlib>
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

TEST(JsonTensor, ReadsShortNumbersAsTheNearestOfTheirType) {
  std::mt19937 random(5);
  std::vector<std::string> numbers{"0",        "-0",        "0.0",       "-0.0",    "9999999",
                                   "0.000001", "0.0000001", "1234567.8", "16777217"};
  for (int i = 0; i < 20'000; ++i) {
    const std::size_t before = random() % 8;
    std::string number = random() % 2 == 0 ? "-" : "";
    number += before == 0 ? "0" : std::to_string(1 + random() % 9);
    for (std::size_t d = 1; d < before; ++d) number += static_cast<char>('0' + random() % 10);
    if (const std::size_t after = random() % 8; after > 0) {
      number += '.';
      for (std::size_t d = 0; d < after; ++d) number += static_cast<char>('0' + random() % 10);
    }
    numbers.push_back(number);
  }
  std::string text = "[";
  for (const std::string& number : numbers) text += number + (random() % 8 == 0 ? " , " : ",");
  text.back() = ']';
  if (text[text.size() - 2] == ',') text.erase(text.size() - 2, 1);
  const auto as_floats = parse(text, DType::kF32);
  const auto as_doubles = parse(text, DType::kF64);
  ASSERT_TRUE(as_floats && as_doubles) << as_floats.error_or(Error{}).message;
  const auto floats = values<float>(*as_floats);
  const auto doubles = values<double>(*as_doubles);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(floats[i]),
              std::bit_cast<std::uint32_t>(std::strtof(numbers[i].c_str(), nullptr)))
        << numbers[i];
    EXPECT_EQ(std::bit_cast<std::uint64_t>(doubles[i]),
              std::bit_cast<std::uint64_t>(std::strtod(numbers[i].c_str(), nullptr)))
        << numbers[i];
  }
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

TEST(JsonTensor, TooSmallIsZeroAndTooLargeIsRefusedHoweverItIsWritten) {
  const auto value = [](const std::string& text, DType dtype) -> std::optional<double> {
    TensorBuilder builder(dtype);
    JsonReader json(text);
    if (!builder.read(json)) return std::nullopt;
    const Tensor tensor = builder.finish("x");
    return item_as_double(dtype, tensor.bytes.data());
  };
  const std::string thousand(1000, '0');
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16}) {
    EXPECT_EQ(value("1" + thousand + "e-400", dtype), std::nullopt) << "1e600";
    EXPECT_EQ(value("-1" + thousand + "e-400", dtype), std::nullopt);
    EXPECT_EQ(value("1e999", dtype), std::nullopt);
    EXPECT_EQ(value("1e99999999999999999999", dtype), std::nullopt);
    EXPECT_EQ(value("0." + thousand + "1e1600", dtype), std::nullopt) << "1e599";
    EXPECT_EQ(value("1" + thousand + "e-1400", dtype), 0) << "1e-400";
    EXPECT_EQ(value("0." + thousand + "1e500", dtype), 0) << "1e-501";
    EXPECT_EQ(value("1e-999", dtype), 0);
    EXPECT_EQ(value("1e-99999999999999999999", dtype), 0);
  }
  EXPECT_EQ(value("1" + thousand + "e-1000", DType::kF64), 1);
}

TEST(JsonTensor, LetsATensorHaveSoManyBytesAndNotOneMore) {
  const auto read = [](const char* text) {
    TensorBuilder builder(DType::kF32, 16);
    JsonReader json(text);
    return builder.read(json);
  };
  EXPECT_TRUE(read("[1,2,3,4]"));
  const auto refused = read("[1,2,3,4,5]");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
}

TEST(JsonTensor, PrintsNoMoreThanItSays) {
  const auto check = [](Shape shape, DType dtype, std::size_t bytes) {
    const TensorSpec spec{.name = "y", .dtype = dtype, .shape = std::move(shape)};
    std::string printed;
    append_nested(printed, spec, std::vector<std::byte>(bytes, std::byte{0x80}));
    EXPECT_LE(printed.size(), printed_bytes(spec)) << printed;
  };
  check({}, DType::kF32, 4);
  check({2, 3}, DType::kI64, 48);
  check({2, 3}, DType::kF64, 48);
  check({2, 3}, DType::kF32, 24);
  check({4}, DType::kF16, 8);
  check({4}, DType::kBf16, 8);
  check({4}, DType::kI32, 16);
  check({4}, DType::kI16, 8);
  check({4}, DType::kI8, 4);
  check({4}, DType::kU8, 4);
  check({3, 1000, 0}, DType::kF32, 0);
  check({0, 1000}, DType::kF32, 0);
  const auto bytes = [](Shape shape) {
    return printed_bytes({.name = "y", .dtype = DType::kF32, .shape = std::move(shape)});
  };
  EXPECT_GT(bytes({1, 1L << 31, 0}), 1ULL << 32);
  EXPECT_EQ(bytes({1L << 40, 1L << 40, 0}), UINT64_MAX);
}

TEST(JsonTensor, KnowsWhichDtypesItKnows) {
  const auto checked =
      check_size({.name = "y", .dtype = static_cast<DType>(99), .shape = {1}}, std::vector<std::byte>(1));
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kInternal);
  EXPECT_THAT(checked.error().message, testing::HasSubstr("not a prediction"));
}

}  // namespace
}  // namespace slipway::gateway

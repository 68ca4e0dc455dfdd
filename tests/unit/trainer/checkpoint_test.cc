#include <cstring>
#include <limits>

#include "services/trainer/safetensors.h"
#include "services/trainer/training_state.h"
#include "tests/unit/trainer/networks.h"

namespace slipway::trainer {
namespace {

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

void expect_damaged(const std::string& header, std::size_t data_bytes) {
  const auto read = read_safetensors(file_of(header, data_bytes));
  ASSERT_FALSE(read) << header;
  EXPECT_EQ(read.error().code, Code::kDataLoss);
}

TEST(Safetensors, ComeBackAsTheyWere) {
  const NamedTensors tensors{
      {"a/b", waves({2, 3}, 1, 0.7)},         {"rng", torch::arange(0, 5056, torch::kInt64).to(torch::kUInt8)},
      {"empty", torch::zeros({0, 4})},        {"scalar", torch::tensor(3.5, torch::kFloat64)},
      {"strided", waves({4, 2}, 1, 0.3).t()}, {"n", torch::tensor({1, -2}, torch::kInt64)}};
  const auto bytes = write_safetensors(tensors);
  ASSERT_TRUE(bytes);
  const auto read = read_safetensors(*bytes);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const auto found = std::ranges::find(*read, name, &NamedTensors::value_type::first);
    ASSERT_NE(found, read->end()) << name;
    EXPECT_EQ(found->second.scalar_type(), tensor.scalar_type());
    EXPECT_TRUE(found->second.equal(tensor)) << name;
  }
}

TEST(Safetensors, EveryTruncationIsNoticed) {
  const auto bytes = *write_safetensors({{"a", waves({3}, 1, 0.7)}, {"b", waves({2}, 1, 0.7)}});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(read_safetensors(std::span(bytes).first(size))) << size;
  }
}

TEST(Safetensors, DamagedHeadersAreRefused) {
  ASSERT_TRUE(read_safetensors(file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8)));
  expect_damaged("[]", 0);
  expect_damaged("{", 0);
  expect_damaged(R"({"a":3})", 0);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[2]}})", 8);
  expect_damaged(R"({"a":{"dtype":"Q7","shape":[2],"data_offsets":[0,8]}})", 8);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}})", 8);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0);
  // An overlap, a gap, bytes left over.
  expect_damaged(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      12);
  expect_damaged(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
      12);
  expect_damaged(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 12);
}

TEST(Safetensors, AHeaderOverTheLimitIsRefusedUnread) {
  auto bytes = file_of("{}", 0);
  const std::uint64_t length = std::numeric_limits<std::uint64_t>::max();
  std::memcpy(bytes.data(), &length, 8);
  EXPECT_EQ(read_safetensors(bytes).error().code, Code::kDataLoss);
  std::string blanks = "{" + std::string(kMaxSafetensorsHeaderBytes, ' ') + "}";
  EXPECT_EQ(read_safetensors(file_of(blanks, 0)).error().code, Code::kDataLoss);
}

TEST(Safetensors, OtherTypesAreNotWritten) {
  EXPECT_EQ(write_safetensors({{"a", torch::zeros({1}, torch::kInt16)}}).error().code, Code::kUnsupported);
}

TEST(TrainingStates, NumbersComeBackBitForBit) {
  TrainingState state;
  state.identity = "job \"7\"";
  state.threads = 2;
  state.epoch = 3;
  state.step = 1'000'000'007;
  state.optimizer_steps = 12;
  state.learning_rate = 0.1 + 0.2;
  state.means = {1.0 / 3, std::numeric_limits<double>::infinity(), {5e-324, -0.0}, {1e300}};
  state.callbacks = R"({"a":[1]})";
  state.history = {{{"loss", std::nan("")}, {"accuracy", 0.1}}, {}};
  const auto read = read_state(write_state(state));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->identity, state.identity);
  EXPECT_EQ(read->step, state.step);
  EXPECT_EQ(read->learning_rate, state.learning_rate);
  EXPECT_EQ(read->means.rows, state.means.rows);
  EXPECT_EQ(read->means.loss, state.means.loss);
  EXPECT_EQ(read->means.metrics, state.means.metrics);
  EXPECT_TRUE(std::signbit(read->means.metrics[1]));
  EXPECT_EQ(read->callbacks, state.callbacks);
  ASSERT_EQ(read->history.size(), 2u);
  EXPECT_TRUE(std::isnan(read->history[0][0].value));
  EXPECT_EQ(read->history[0][1], state.history[0][1]);
}

TEST(TrainingStates, DamageIsAnError) {
  for (const char* text : {"", "{}", "[]", "{\"format\": 2}", "\"x\""}) {
    EXPECT_EQ(read_state(text).error().code, Code::kDataLoss) << text;
  }
  TrainingState state;
  auto text = write_state(state);
  text.replace(text.find("\"epoch\":0"), 9, "\"epoch\":-1");
  EXPECT_EQ(read_state(text).error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace slipway::trainer

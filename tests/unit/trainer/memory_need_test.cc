#include "services/trainer/memory_need.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace slipway::trainer {
namespace {

keras::JobSpec spec(const std::string& optimizer, const std::string& config, int units = 1000,
                    const std::string& callbacks = "[]") {
  auto parsed = keras::parse_job(R"({"publish": {"model": "m"}, "dataset": {"name": "d", "target": "y"},
    "model": {"class_name": "Sequential", "config": {"name": "s", "layers": [
      {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [null, 99], "dtype": "float32"}},
      {"class_name": "Dense", "config": {"name": "a", "units": )" +
                                 std::to_string(units) + R"(}},
      {"class_name": "Reshape", "config": {"name": "r", "target_shape": [-1]}},
      {"class_name": "Dense", "config": {"name": "b", "units": 1, "trainable": false}}]}},
    "compile": {"optimizer": {"class_name": ")" +
                                 optimizer + R"(", "config": )" + config + R"(}, "loss": "mse"},
    "fit": {"epochs": 1, "batch_size": 10}, "callbacks": )" +
                                 callbacks + "}");
  EXPECT_TRUE(parsed.has_value()) << parsed.error().message;
  return *parsed;
}

// 100 * 1000 trained numbers, 1001 fixed ones, 10 rows of 99 inputs and 1001 activations; four bytes each. What is kept
// is there three times while a checkpoint is written.
TEST(MemoryNeed, CountsWeightsGradientsOptimizerCheckpointsAndActivations) {
  const std::uint64_t rest = 4 * (100'000 + 3 * 1'001 + 10 * (99 + 1'001));
  EXPECT_EQ(memory_need(spec("SGD", "{}")), 4 * 3 * 100'000 + rest);
  EXPECT_EQ(memory_need(spec("SGD", R"({"momentum": 0.9})")), 4 * 6 * 100'000 + rest);
  EXPECT_EQ(memory_need(spec("Adam", "{}")), 4 * 9 * 100'000 + rest);
  EXPECT_EQ(memory_need(spec("AdamW", R"({"amsgrad": true})")), 4 * 12 * 100'000 + rest);
  EXPECT_EQ(memory_need(spec("RMSprop", R"({"centered": true})")), 4 * 9 * 100'000 + rest);
  const std::string best =
      R"([{"class_name": "EarlyStopping", "config": {"monitor": "loss", "restore_best_weights": true}}])";
  EXPECT_EQ(memory_need(spec("SGD", "{}", 1000, best)), 4 * 3 * (2 * 100'000 + 1'001) + rest);
}

TEST(MemoryNeed, IsHeldAgainstWhatIsLeft) {
  const auto job = spec("Adam", "{}", 10'000'000);  // a thousand million parameters
  const auto refused = check_memory(job, 0, std::uint64_t{20} << 30);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
  EXPECT_THAT(refused.error().message,
              testing::AllOf(testing::HasSubstr("1010000001 parameters"), testing::HasSubstr("37.7 GiB, its data"),
                             testing::HasSubstr("20.0 GiB left")));
  EXPECT_TRUE(check_memory(job, 0, std::uint64_t{40} << 30).has_value());
}

}  // namespace
}  // namespace slipway::trainer

#include "services/inferencer/inspect_child.h"

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/memory_plan.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

class InspectChild : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }
  Result<Signature> inspect(const std::filesystem::path& file, const InspectLimits& limits = {}) {
    return inspect_in_child(SLIPWAY_INFERENCER, file, {.inputs = {f32("x", {-1, 2})}, .outputs = {}, .classes = {}},
                            limits);
  }
  Folder folder_;
};

TEST_F(InspectChild, CompletesTheSignatureOfAGoodFile) {
  const auto signature = inspect(save_doubler(folder_));
  ASSERT_TRUE(signature) << signature.error().message;
  EXPECT_EQ(signature->outputs, std::vector{f32("output_0", {-1, 2})});
}

TEST_F(InspectChild, HasRoomForAGoodFileInASmallContainer) {
  const auto signature = inspect(save_doubler(folder_), {.memory_bytes = plan_memory(1).inspect_bytes});
  EXPECT_TRUE(signature) << signature.error().message;
}

TEST_F(InspectChild, HandsTheRefusalOn) {
  const auto path = folder_.path() / "text.pt";
  std::ofstream(path) << "not a model";
  const auto refused = inspect(path);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_EQ(refused.error().message, "not a TorchScript file: it is not a zip archive");
}

TEST_F(InspectChild, EndsAModelThatLoopsForEver) {
  const auto path = save_module(folder_, "loop.pt",
                                "def forward(self, x):\n  for i in range(4000000000):\n    x = x + 1\n  return x\n");
  const auto refused = inspect(path, {.time = std::chrono::seconds(3)});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_TRUE(refused.error().message.contains("within")) << refused.error().message;
}

TEST_F(InspectChild, EndsTheChildWhenItIsToStop) {
  const auto path = save_module(folder_, "loop.pt",
                                "def forward(self, x):\n  for i in range(4000000000):\n    x = x + 1\n  return x\n");
  std::stop_source stop;
  stop.request_stop();
  const auto stopped = inspect_in_child(SLIPWAY_INFERENCER, path, rows_of(2), {}, stop.get_token());
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, Code::kUnavailable);
}

TEST_F(InspectChild, RefusesAModelThatEatsMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a child with a sanitizer has no limit on its memory";
#endif
  const auto path =
      save_module(folder_, "eat.pt", "def forward(self, x):\n  return torch.zeros([10000000000, 2]) + x\n");
  const auto refused = inspect(path, {.memory_bytes = 2ULL << 30});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
}

// The inferencer warms up with full batches; the trials that find the outputs have one row and two.
TEST_F(InspectChild, TriesTheBatchesThatTheInferencerWillTry) {
  const auto path = save_module(folder_, "rows.pt",
                                "def forward(self, x):\n  assert x.size(0) != 16, 'not sixteen'\n  return x * 2\n");
  EXPECT_TRUE(inspect(path, {.max_batch_rows = 8}));
  const auto refused = inspect(path, {.max_batch_rows = 32});
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.contains("not sixteen")) << refused.error().message;
}

TEST_F(InspectChild, AProgramThatIsNotThereIsInternal) {
  EXPECT_EQ(inspect_in_child("/nonexistent", save_doubler(folder_), rows_of(2)).error().code, Code::kInternal);
}

TEST_F(InspectChild, RefusesASignatureThatIsNone) {
  const auto path = save_doubler(folder_);
  const auto with = [&](std::vector<TensorSpec> inputs) {
    return inspect_file(path, {.inputs = std::move(inputs), .outputs = {}, .classes = {}}, 32);
  };
  EXPECT_EQ(with({}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({f32("", {-1, 2})}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({f32("x", {-1, 0})}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({f32("x", {-1, -2})}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({f32("x", {-1, 2}), f32("x", {-1, 2})}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(with({f32("x", {-1, 1LL << 40})}).error().code, Code::kTooLarge);
}

TEST(InspectChildEnvironment, HoldsNoSecretOfTheService) {
  const char* given[] = {"PATH=/bin", "SLIPWAY_CLUSTER_SECRET=harbour", "LD_LIBRARY_PATH=/lib", "AWS_SECRET=x",
                         nullptr};
  EXPECT_EQ(child_environment(given), (std::vector<std::string>{"PATH=/bin", "LD_LIBRARY_PATH=/lib"}));
}

}  // namespace
}  // namespace slipway::inferencer

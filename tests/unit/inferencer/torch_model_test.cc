#include "services/inferencer/torch_model.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "lib/torch_runtime/torch_runtime.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

std::vector<float> floats(const Frame& frame) {
  std::vector<float> values(frame.size() / 4);
  std::memcpy(values.data(), frame.data(), frame.size());
  return values;
}

class TorchModelTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  std::shared_ptr<const TorchModel> load(const std::string& source, Origin origin = Origin::kUploaded,
                                         const Signature& signature = rows_of(2)) {
    auto model = TorchModel::load(save_module(folder_, "m.pt", source), origin, signature);
    EXPECT_TRUE(model) << model.error().message;
    return model ? *model : nullptr;
  }

  Result<std::vector<Outputs>> run(const TorchModel& model, const Signature& signature,
                                   std::vector<std::vector<float>> requests) {
    std::vector<std::vector<TensorSpec>> specs;
    std::vector<std::vector<Frame>> frames;
    for (const auto& values : requests) {
      specs.push_back({f32("x", {static_cast<std::int64_t>(values.size()) / 2, 2})});
      frames.push_back({Frame::of(values)});
    }
    std::vector<Part> parts;
    for (std::size_t i = 0; i < requests.size(); ++i)
      parts.push_back({.specs = specs[i], .inputs = frames[i], .rows = specs[i][0].shape[0]});
    return model.run(signature, parts, scratch_);
  }

  Folder folder_;
  Scratch scratch_;
};

TEST_F(TorchModelTest, EachPartGetsItsOwnRows) {
  for (const auto origin : {Origin::kTrained, Origin::kUploaded}) {
    const auto model = load("def forward(self, x):\n  return x * 2\n", origin);
    const auto outputs = run(*model, rows_of(2), {{1, 2}, {3, 4, 5, 6}});
    ASSERT_TRUE(outputs);
    EXPECT_EQ(floats((*outputs)[0].frames[0]), (std::vector<float>{2, 4}));
    EXPECT_EQ(floats((*outputs)[1].frames[0]), (std::vector<float>{6, 8, 10, 12}));
    EXPECT_EQ((*outputs)[1].specs[0], f32("y", {2, 2}));
  }
}

TEST_F(TorchModelTest, AnAnswerDoesNotChangeWithTheNextBatch) {
  const auto model = load("def forward(self, x):\n  return x\n");  // the output is the input's memory
  const auto first = run(*model, rows_of(2), {{1, 2}});
  const auto second = run(*model, rows_of(2), {{3, 4}});
  EXPECT_EQ(floats((*first)[0].frames[0]), (std::vector<float>{1, 2}));
  EXPECT_EQ(floats((*second)[0].frames[0]), (std::vector<float>{3, 4}));
}

TEST_F(TorchModelTest, AnInPlaceModelDoesNotWriteIntoTheRequest) {
  const auto model = load("def forward(self, x):\n  return x.mul_(2)\n");
  const auto frame = Frame::of(std::vector<float>{1, 2});
  const std::vector<TensorSpec> specs{f32("x", {1, 2})};
  const std::vector<Frame> frames{frame};
  const Part part{.specs = specs, .inputs = frames, .rows = 1};
  ASSERT_TRUE(model->run(rows_of(2), {&part, 1}, scratch_));
  EXPECT_EQ(floats(frame), (std::vector<float>{1, 2}));
}

TEST_F(TorchModelTest, NanIsPassedThrough) {
  const auto model = load("def forward(self, x):\n  return x * 2\n");
  const auto outputs = run(*model, rows_of(2), {{std::numeric_limits<float>::quiet_NaN(), 1}});
  EXPECT_TRUE(std::isnan(floats((*outputs)[0].frames[0])[0]));
}

TEST_F(TorchModelTest, AnExceptionOfTheModelIsTheCallersFaultAndItsTextIsShort) {
  const auto model = load(
      "def forward(self, x):\n  assert bool(torch.all(torch.le(x, 9.0))), 'values must be at most nine'\n  return x * "
      "2\n");
  const auto failed = run(*model, rows_of(2), {{10, 1}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kInvalidArgument);
  EXPECT_TRUE(failed.error().message.contains("values must be at most nine")) << failed.error().message;
  EXPECT_FALSE(failed.error().message.contains("Traceback")) << failed.error().message;
}

TEST_F(TorchModelTest, AFailureInTheModelIsInternalUnlessItsShapesAreFree) {
  const auto model = load("def forward(self, x):\n  return torch.matmul(x, torch.ones([3, 2]))\n");
  const auto failed = run(*model, rows_of(2), {{1, 1}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kInternal);
  EXPECT_TRUE(failed.error().message.contains("cannot be multiplied")) << failed.error().message;
  EXPECT_EQ(run(*model, rows_of(-1), {{1, 1}}).error().code, Code::kInvalidArgument);
}

TEST_F(TorchModelTest, OutputsUnlikeTheSignatureAreErrors) {
  EXPECT_TRUE(run(*load("def forward(self, x):\n  return (x, x)\n"), rows_of(2), {{1, 1}})
                  .error()
                  .message.contains("2 outputs"));
  EXPECT_TRUE(run(*load("def forward(self, x):\n  return torch.to(x, 7)\n"), rows_of(2), {{1, 1}})
                  .error()
                  .message.contains("data-type f64"));
  EXPECT_TRUE(run(*load("def forward(self, x):\n  return torch.sum(x)\n"), rows_of(2), {{1, 1}})
                  .error()
                  .message.contains("shape []"));
  EXPECT_EQ(run(*load("def forward(self, x):\n  return 'text'\n"), rows_of(2), {{1, 1}}).error().code,
            Code::kUnsupported);
}

TEST_F(TorchModelTest, TuplesListsAndDictionariesAreOutputs) {
  Signature two = rows_of(2);
  two.outputs = {f32("b", {-1, 2}), f32("a", {-1, 2})};
  for (const std::string result : {"(x * 2, x * 3)", "[x * 2, x * 3]"}) {
    const auto outputs = run(*load("def forward(self, x):\n  return " + result + "\n"), two, {{1, 2}});
    ASSERT_TRUE(outputs) << outputs.error().message;
    EXPECT_EQ(floats((*outputs)[0].frames[1]), (std::vector<float>{3, 6}));
  }
  const auto outputs = run(*load("def forward(self, x):\n  return {'a': x * 2, 'b': x * 3}\n"), two, {{1, 2}});
  ASSERT_TRUE(outputs) << outputs.error().message;
  EXPECT_EQ(floats((*outputs)[0].frames[0]), (std::vector<float>{3, 6}));  // by name
}

TEST_F(TorchModelTest, CompletesTheSignatureByTrialRuns) {
  Signature given{.inputs = {f32("x", {-1, 4})}, .outputs = {}, .classes = {}};
  const auto model =
      load("def forward(self, x):\n  return (torch.softmax(x, 1), torch.argmax(x, 1))\n", Origin::kUploaded, given);
  const auto full = model->complete(given);
  ASSERT_TRUE(full) << full.error().message;
  EXPECT_EQ(full->outputs, (std::vector<TensorSpec>{f32("output_0", {-1, 4}),
                                                    {.name = "output_1", .dtype = DType::kI64, .shape = {-1}}}));
  given.outputs = {f32("p", {-1, 4}), {.name = "c", .dtype = DType::kI64, .shape = {-1}}};
  EXPECT_EQ(model->complete(given)->outputs, given.outputs);
  given.outputs[0].shape = {-1, 5};
  EXPECT_EQ(model->complete(given).error().code, Code::kInvalidArgument);
  given.outputs.pop_back();
  EXPECT_EQ(model->complete(given).error().code, Code::kInvalidArgument);
}

TEST_F(TorchModelTest, FreeDimensionsStayFreeInTheOutputs) {
  const Signature given{.inputs = {f32("x", {-1, 3, -1})}, .outputs = {}, .classes = {}};
  const auto model = load("def forward(self, x):\n  return torch.relu(x)\n", Origin::kUploaded, given);
  EXPECT_EQ(model->complete(given)->outputs[0].shape, (std::vector<std::int64_t>{-1, 3, -1}));
}

TEST_F(TorchModelTest, ATrialThatFailsSaysWhy) {
  const Signature given{.inputs = {f32("x", {-1, 4})}, .outputs = {}, .classes = {}};
  const auto model =
      load("def forward(self, x):\n  return torch.matmul(x, torch.ones([3, 2]))\n", Origin::kUploaded, given);
  const auto failed = model->complete(given);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kInvalidArgument);
  EXPECT_TRUE(failed.error().message.contains("trial run")) << failed.error().message;
}

TEST_F(TorchModelTest, ClassNamesMustFitTheOutput) {
  Signature given{.inputs = {f32("x", {-1, 2})}, .outputs = {}, .classes = {"cat", "dog"}};
  const auto model = load("def forward(self, x):\n  return x * 2\n", Origin::kUploaded, given);
  EXPECT_TRUE(model->complete(given));
  given.classes.push_back("bird");
  EXPECT_EQ(model->complete(given).error().code, Code::kInvalidArgument);
}

TEST_F(TorchModelTest, AModuleThatWritesItsOwnAttributesIsRunByOneThreadAtATime) {
  const auto path =
      save_module(folder_, "count.pt", "def forward(self, x):\n  self.n = self.n + 1\n  return x * 0 + self.n\n",
                  [](torch::jit::Module& module) { module.register_attribute("n", c10::IntType::get(), 0); });
  const auto model = *TorchModel::load(path, Origin::kUploaded, rows_of(2));
  const auto work = [&] {
    Scratch scratch;
    const std::vector<TensorSpec> specs{f32("x", {1, 2})};
    const std::vector<Frame> frames{Frame::of(std::vector<float>{1, 1})};
    const Part part{.specs = specs, .inputs = frames, .rows = 1};
    for (int i = 0; i < 200; ++i) ASSERT_TRUE(model->run(rows_of(2), {&part, 1}, scratch));
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(floats((*run(*model, rows_of(2), {{0, 0}}))[0].frames[0])[0], 401);
}

TEST_F(TorchModelTest, AMissingFileAndAModuleWithoutForwardAreErrors) {
  EXPECT_EQ(TorchModel::load(folder_.path() / "none.pt", Origin::kUploaded, rows_of(2)).error().code, Code::kNotFound);
  EXPECT_FALSE(TorchModel::load(folder_.path() / "none.pt", Origin::kTrained, rows_of(2)));
  const auto path = save_module(folder_, "other.pt", "def backward(self, x):\n  return x\n");
  EXPECT_TRUE(TorchModel::load(path, Origin::kUploaded, rows_of(2)).error().message.contains("forward"));
}

}  // namespace
}  // namespace slipway::inferencer

#include "services/inferencer/torch_model.h"

#include <cmath>
#include <cstring>
#include <format>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/keeps_state.h"
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
    return model.run(signature, parts);
  }

  Folder folder_;
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
  ASSERT_TRUE(model->run(rows_of(2), {&part, 1}));
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

// A model that keeps what it is given keeps its own memory, not the one in which other models' rows are gathered next.
TEST_F(TorchModelTest, AModelThatKeepsItsInputSeesNobodyElsesBytes) {
  const auto path = save_module(
      folder_, "spy.pt", "def forward(self, x):\n  answer = self.kept * 1\n  self.kept = x\n  return answer\n",
      [](torch::jit::Module& module) { module.register_buffer("kept", torch::zeros({1, 2})); });
  const auto spy = *TorchModel::load(path, Origin::kUploaded, rows_of(2));
  const auto victim = load("def forward(self, x):\n  return x * 2\n");
  ASSERT_TRUE(run(*spy, rows_of(2), {{1, 2}}));
  ASSERT_TRUE(run(*victim, rows_of(2), {{77, 78}}));
  const auto seen = run(*spy, rows_of(2), {{0, 0}});
  ASSERT_TRUE(seen) << seen.error().message;
  EXPECT_EQ(floats((*seen)[0].frames[0]), (std::vector<float>{1, 2}));
}

TEST_F(TorchModelTest, WhatMayKeepSomethingBetweenItsRunsIsKnown) {
  struct Case {
    const char* what;
    const char* source;
    bool keeps;
  };
  const std::vector<Case> cases{
      {"plain", "def forward(self, x):\n  return x * 2\n", false},
      {"assigns", "def forward(self, x):\n  self.n = self.n + 1\n  return x\n", true},
      {"assigns in a branch that can be reached",
       "def forward(self, x):\n  if bool(x.sum() > 9):\n    self.n = 1\n  return x\n", true},
      {"assigns when training", "def forward(self, x):\n  if self.training:\n    self.n = 1\n  return x\n", false},
      {"appends", "def forward(self, x):\n  self.items.append(x)\n  return x\n", true},
      {"extends", "def forward(self, x):\n  self.items.extend([x])\n  return x\n", true},
      {"inserts", "def forward(self, x):\n  self.items.insert(0, x)\n  return x\n", true},
      {"clears", "def forward(self, x):\n  self.items.clear()\n  return x\n", true},
      {"pops", "def forward(self, x):\n  y = self.items.pop()\n  return x\n", true},
      {"sets an item", "def forward(self, x):\n  self.items[0] = x\n  return x\n", true},
      {"sets a dictionary's item", "def forward(self, x):\n  self.named['a'] = x\n  return x\n", true},
      {"deletes a dictionary's item", "def forward(self, x):\n  del self.named['a']\n  return x\n", true},
      {"appends under another name", "def forward(self, x):\n  items = self.items\n  items.append(x)\n  return x\n",
       true},
      {"appends to one of two",
       "def forward(self, x):\n  items = [x]\n  if bool(x.sum() > 9):\n    items = self.items\n  items.append(x)\n  "
       "return x\n",
       true},
      {"adds in place", "def forward(self, x):\n  self.w.add_(1)\n  return x\n", true},
      {"adds in place to a view", "def forward(self, x):\n  self.w.view([2]).add_(1)\n  return x\n", true},
      {"adds in place to a slice", "def forward(self, x):\n  self.w[0].add_(1)\n  return x\n", true},
      {"adds in place to an item", "def forward(self, x):\n  self.items[0].add_(1)\n  return x\n", true},
      {"adds in place behind a list",
       "def forward(self, x):\n  l = [x]\n  l.append(self.w)\n  l[1].add_(1)\n  return x\n", true},
      {"adds in place behind a dropout that does nothing",
       "def forward(self, x):\n  y = torch.dropout(self.w, 0.5, False)\n  y.add_(1)\n  return x + y\n", true},
      {"adds in place behind type_as", "def forward(self, x):\n  y = self.w.type_as(x)\n  y.add_(1)\n  return x + y\n",
       true},
      {"adds in place in a loop",
       "def forward(self, x):\n  y = x * 1\n  for i in range(3):\n    y.add_(1)\n    y = self.w\n  return x\n", true},
      {"writes out of place into an attribute", "def forward(self, x):\n  torch.add(x, x, out=self.w)\n  return x\n",
       true},
      {"trains its statistics",
       "def forward(self, x):\n  return torch.batch_norm(x, None, None, self.mean, self.var, True, 0.1, 0.1, False)\n",
       true},
      {"uses its statistics",
       "def forward(self, x):\n  return torch.batch_norm(x, None, None, self.mean, self.var, False, 0.1, 0.1, False)\n",
       false},
      {"normalises as Python's module does",
       "def forward(self, x):\n  if self.training:\n    self.mean.add_(1)\n  if self.training:\n    train = True\n  "
       "else:\n"
       "    train = (self.mean is None) and (self.var is None)\n"
       "  return torch.batch_norm(x, None, None, self.mean, self.var, train, 0.1, 0.1, False)\n",
       false},
      {"writes to what it made",
       "def forward(self, x):\n  y = torch.linear(x, self.w)\n  y.relu_()\n  y += x\n  return y\n", false},
      {"writes to its argument", "def forward(self, x):\n  return x.mul_(2)\n", false},
      {"lists what it made",
       "def forward(self, x):\n  l = [x]\n  for i in range(3):\n    l.append(l[0] * 2)\n  return torch.cat(l, "
       "0)[0:1]\n",
       false},
      {"writes to parts of what it made",
       "def forward(self, x):\n  a, b = torch.chunk(x * 2, 2, 1)\n  a.add_(1)\n  return torch.cat([a, b], 1)\n", false},
      {"writes in a loop to what it made",
       "def forward(self, x):\n  y = torch.zeros_like(self.w)\n  for i in range(3):\n    y.add_(1)\n  return x + y\n",
       false},
  };
  for (const Case& each : cases) {
    const auto path = save_module(folder_, "case.pt", each.source, [](torch::jit::Module& module) {
      module.register_attribute("training", c10::BoolType::get(), true);
      module.register_attribute("n", c10::IntType::get(), 0);
      module.register_buffer("w", torch::eye(2));
      module.register_buffer("mean", torch::zeros({2}));
      module.register_buffer("var", torch::ones({2}));
      module.register_attribute("items", c10::ListType::ofTensors(), c10::List<at::Tensor>({torch::ones({2})}));
      c10::Dict<std::string, at::Tensor> named;
      named.insert("a", torch::ones({2}));
      module.register_attribute("named", c10::DictType::create(c10::StringType::get(), c10::TensorType::get()), named);
    });
    auto module = torch::jit::load(path.string());
    module.eval();
    EXPECT_EQ(keeps_state(module), each.keeps) << each.what;
  }
}

// Two threads that append to one vector would destroy it.
TEST_F(TorchModelTest, AModelThatAppendsToAListIsRunByOneThreadAtATime) {
  const auto path = save_module(
      folder_, "hoard.pt", "def forward(self, x):\n  self.items.append(x)\n  return x * 0 + len(self.items)\n",
      [](torch::jit::Module& module) {
        module.register_attribute("items", c10::ListType::ofTensors(), c10::List<at::Tensor>());
      });
  const auto model = *TorchModel::load(path, Origin::kUploaded, rows_of(2));
  EXPECT_TRUE(model->keeps_state());
  const auto work = [&] {
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(run(*model, rows_of(2), {{1, 1}}));
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(floats((*run(*model, rows_of(2), {{0, 0}}))[0].frames[0])[0], 1001);
}

TEST_F(TorchModelTest, AnOutputUnlikeAFixedDimensionOrWithoutBytesIsAnError) {
  const Signature free{.inputs = {f32("x", {-1, 2})}, .outputs = {f32("y", {-1, -1, -1})}, .classes = {}};
  const auto flood =
      load("def forward(self, x):\n  return torch.zeros([x.size(0), 100000000, 0])\n", Origin::kUploaded, free);
  EXPECT_EQ(run(*flood, free, {{1, 2}}).error().code, Code::kInternal);
  const auto wide = load("def forward(self, x):\n  return torch.cat([x, x], 1)\n");
  const auto failed = run(*wide, rows_of(2), {{1, 2}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kInternal);
  EXPECT_TRUE(failed.error().message.contains("[1, 4]")) << failed.error().message;
  // At upload it is the file's fault.
  Signature given{.inputs = free.inputs, .outputs = {}, .classes = {}};
  EXPECT_EQ(flood->complete(given).error().code, Code::kInvalidArgument);
}

TEST_F(TorchModelTest, AnAnswerOverTheLimitsIsRefusedWithItsSizeBeforeItIsMade) {
  const Signature free{.inputs = {f32("x", {-1, 2})}, .outputs = {f32("y", {-1, -1})}, .classes = {}};
  // 4 TB if it were written out.
  const auto repeat =
      load("def forward(self, x):\n  return x[:, 0:1].expand([x.size(0), 1000000000000])\n", Origin::kUploaded, free);
  const auto failed = run(*repeat, free, {{1, 2}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kTooLarge);
  EXPECT_TRUE(failed.error().message.contains("4000000000000 bytes")) << failed.error().message;

  Signature two = rows_of(2);
  two.outputs = {f32("a", {-1, 2}), f32("b", {-1, 2})};
  const auto path = save_module(folder_, "two.pt", "def forward(self, x):\n  return (x * 2, x * 3)\n");
  const auto limited = [&](std::int64_t tensor, std::int64_t answer) {
    return *TorchModel::load(path, Origin::kUploaded, two, {.tensor_bytes = tensor, .answer_bytes = answer});
  };
  EXPECT_TRUE(run(*limited(8, 16), two, {{1, 2}, {3, 4}}));  // each request has its own limit
  EXPECT_EQ(run(*limited(7, 16), two, {{1, 2}}).error().code, Code::kTooLarge);
  EXPECT_EQ(run(*limited(8, 15), two, {{1, 2}}).error().code, Code::kTooLarge);
}

// A number in the request says how much the model takes.
TEST_F(TorchModelTest, ARunThatWantsTooMuchMemoryIsRefusedAndTheNextOneRuns) {
  const auto path = save_module(folder_, "greedy.pt",
                                "def forward(self, x):\n  return x + torch.zeros([int(x[0, 0].item())]).sum()\n");
  const auto model = *TorchModel::load(path, Origin::kUploaded, rows_of(2), {.run_bytes = 1 << 20});
  const auto failed = run(*model, rows_of(2), {{1'000'000'000, 0}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kTooLarge);
  EXPECT_TRUE(failed.error().message.contains("4000000000")) << failed.error().message;
  EXPECT_FALSE(model->is_spent());
  EXPECT_TRUE(run(*model, rows_of(2), {{10, 0}}));
  EXPECT_EQ(model->further_bytes(), 0);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(TorchModelTest, AListThatGrowsWithTheRequestIsMemoryToo) {
  const auto model = *TorchModel::load(
      save_module(folder_, "list.pt",
                  "def forward(self, x):\n  l = [0] * int(x[0, 0].item())\n  l.append(1)\n  return x + len(l)\n"),
      Origin::kUploaded, rows_of(2), {.run_bytes = 1 << 20});
  const auto failed = run(*model, rows_of(2), {{10'000'000, 0}});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kTooLarge) << failed.error().message;
  const auto good = run(*model, rows_of(2), {{10, 0}});
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_EQ(floats((*good)[0].frames[0])[1], 11);
}

// Each of them a few bytes in the program's eyes, and tens to hundreds of torch's: no block of them is large.
TEST_F(TorchModelTest, ManySmallThingsAreMemoryToo) {
  struct Kind {
    std::string name, first, more;
  };
  const std::vector<Kind> kinds{{"lists", "[0]", "[i]"},
                                {"texts", "\"\"", "str(i)"},
                                {"long texts", "\"\"", "str(i) + \" of a number of texts of some length\""},
                                {"tensors", "x", "x[0] * i"},
                                {"dictionaries", "{0: 0}", "{i: i}"}};
  for (const Kind& kind : kinds) {
    // As many that a list entry and a block of the least size for each are more than the limit.
    const auto path = save_module(
        folder_, "small.pt",
        std::format(
            "def forward(self, x):\n  l = [{0}]\n  if bool(x[0, 0] > 0):\n    for i in range(175000):\n"
            "      l.append({1})\n  else:\n    for i in range(5000):\n      l.append({1})\n  return x + len(l)\n",
            kind.first, kind.more));
    const auto loaded = TorchModel::load(path, Origin::kUploaded, rows_of(2), {.run_bytes = 8 << 20});
    ASSERT_TRUE(loaded) << kind.name << ": " << loaded.error().message;
    const auto model = *loaded;
    const auto failed = run(*model, rows_of(2), {{1, 0}});
    ASSERT_FALSE(failed) << kind.name;
    EXPECT_EQ(failed.error().code, Code::kTooLarge) << kind.name << ": " << failed.error().message;
    EXPECT_FALSE(model->is_spent());
    // What a run has released counts no more, however often.
    for (int i = 0; i < 20; ++i) {
      const auto good = run(*model, rows_of(2), {{0, 0}});
      ASSERT_TRUE(good) << kind.name << ": " << good.error().message;
      EXPECT_EQ(floats((*good)[0].frames[0])[1], 5001) << kind.name;
    }
    EXPECT_EQ(model->further_bytes(), 0) << kind.name;
  }
}

TEST_F(TorchModelTest, SmallThingsThatAModelKeepsCountUntilItIsSpent) {
  constexpr std::int64_t kRunBytes = 16 << 20;
  const auto model = *TorchModel::load(
      save_module(folder_, "hoard.pt",
                  "def forward(self, x):\n  for i in range(5000):\n    self.items.append([i])\n"
                  "  assert bool(x[0, 0] > 0), \"no\"\n  return x * 2\n",
                  [](torch::jit::Module& module) {
                    const auto inner = c10::ListType::ofInts();
                    module.register_attribute("items", c10::ListType::create(inner), c10::impl::GenericList(inner));
                  }),
      Origin::kUploaded, rows_of(2), {.run_bytes = kRunBytes});
  ASSERT_TRUE(model->keeps_state());
  std::int64_t before = 0;
  for (int runs = 0; runs < kRunBytes / (5000 * 48); ++runs) {
    const bool good = runs % 2 == 0;  // those that fail keep as much
    const auto ran = run(*model, rows_of(2), {{good ? 1.0F : -1.0F, 2}});
    if (!ran && ran.error().code == Code::kTooLarge) break;
    ASSERT_EQ(ran.has_value(), good);
    EXPECT_GE(model->further_bytes(), before + std::int64_t{5000} * 48);
    before = model->further_bytes();
  }
  EXPECT_TRUE(model->is_spent());
  EXPECT_GE(model->further_bytes(), kRunBytes / 2);
}

// Nothing of a run that keeps nothing stays on the account: not its answers, which others release, nor its errors.
TEST_F(TorchModelTest, AModelThatKeepsTheSameAllTheTimeIsNeverSpent) {
  const auto model = *TorchModel::load(
      save_module(folder_, "honest.pt",
                  "def forward(self, x):\n  self.items.clear()\n  for i in range(20):\n    self.items.append(i)\n"
                  "  self.last = x\n  assert bool(x[0, 0] > 0), \"no: a text that is not short at all\"\n"
                  "  return x * 2\n",
                  [](torch::jit::Module& module) {
                    module.register_attribute("items", c10::ListType::ofInts(), c10::List<std::int64_t>());
                    module.register_attribute("last", c10::TensorType::get(), torch::zeros({1, 2}));
                  }),
      Origin::kUploaded, rows_of(2), {.run_bytes = 16 << 20});
  ASSERT_TRUE(model->keeps_state());
  const auto rounds = [&](int count) {
    for (int i = 0; i < count; ++i) {
      std::optional<Result<std::vector<Outputs>>> answer =
          run(*model, rows_of(2), {{i % 3 == 0 ? -1.0F : 1.0F, 2}, {3, 4}});
      ASSERT_EQ(answer->has_value(), i % 3 != 0);
      std::thread([&] { answer.reset(); }).join();
    }
  };
  rounds(50);
  const std::int64_t settled = model->further_bytes();
  rounds(2000);
  std::thread([&] { rounds(1000); }).join();
  EXPECT_LE(model->further_bytes(), settled + 100'000) << "a few bytes a run would be more";
  EXPECT_FALSE(model->is_spent());
}
#endif

TEST_F(TorchModelTest, WhatAModelKeepsCountsUntilItIsSpent) {
  const auto path = save_module(
      folder_, "hoard.pt", "def forward(self, x):\n  self.items.append(x.repeat([1, 50000]))\n  return x * 2\n",
      [](torch::jit::Module& module) {
        module.register_attribute("items", c10::ListType::ofTensors(), c10::List<at::Tensor>());
      });
  const auto model = *TorchModel::load(path, Origin::kUploaded, rows_of(2), {.run_bytes = 10'000'000});
  int answered = 0;
  while (run(*model, rows_of(2), {{1, 2}})) ++answered;
  EXPECT_GE(answered, 22);
  EXPECT_LE(answered, 24);
  EXPECT_GE(model->further_bytes(), answered * std::int64_t{400'000});
  EXPECT_TRUE(model->is_spent());
}

TEST_F(TorchModelTest, AModelThatDoesNotFitIsNotLoaded) {
  const auto path =
      save_module(folder_, "fat.pt", "def forward(self, x):\n  return x * self.w.sum()\n",
                  [](torch::jit::Module& module) { module.register_buffer("w", torch::ones({100'000})); });
  for (const auto origin : {Origin::kUploaded, Origin::kTrained}) {
    const auto refused = TorchModel::load(path, origin, rows_of(2), {.load_bytes = 399'999});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kTooLarge) << refused.error().message;
    const auto loaded = TorchModel::load(path, Origin::kUploaded, rows_of(2), {.load_bytes = 1'000'000});
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_GE((*loaded)->loaded_bytes(), 400'000);
    EXPECT_EQ((*loaded)->further_bytes(), 0);
  }
}

TEST_F(TorchModelTest, AnElementTypeOfALaterReleaseIsNotRun) {
  Signature later = rows_of(2);
  later.inputs[0].dtype = static_cast<DType>(99);
  const auto refused = TorchModel::load(save_doubler(folder_), Origin::kUploaded, later);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_TRUE(refused.error().message.contains("unknown(99)")) << refused.error().message;
}

TEST_F(TorchModelTest, AModuleThatWritesItsOwnAttributesIsRunByOneThreadAtATime) {
  const auto path =
      save_module(folder_, "count.pt", "def forward(self, x):\n  self.n = self.n + 1\n  return x * 0 + self.n\n",
                  [](torch::jit::Module& module) { module.register_attribute("n", c10::IntType::get(), 0); });
  const auto model = *TorchModel::load(path, Origin::kUploaded, rows_of(2));
  const auto work = [&] {
    const std::vector<TensorSpec> specs{f32("x", {1, 2})};
    const std::vector<Frame> frames{Frame::of(std::vector<float>{1, 1})};
    const Part part{.specs = specs, .inputs = frames, .rows = 1};
    for (int i = 0; i < 200; ++i) ASSERT_TRUE(model->run(rows_of(2), {&part, 1}));
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

#include "services/inferencer/engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <random>
#include <set>
#include <thread>

#include "lib/torch_runtime/torch_runtime.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

const msg::VersionKey kKey{"m", 1};

// A model run that waits for `open` would need a sleep; a slow one made of many products does without.
constexpr auto kSlow =
    "def forward(self, x):\n  y = torch.ones([300, 300])\n  for i in range(100):\n    y = torch.matmul(y, y) * 0.0\n  "
    "return x * 2 + torch.sum(y)\n";
constexpr auto kDouble = "def forward(self, x):\n  return x * 2\n";

class EngineTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  void add(Engine& engine, const std::string& source, const Signature& signature = rows_of(2),
           const msg::VersionKey& key = kKey, const ModelLimits& limits = {},
           const std::function<void(torch::jit::Module&)>& fill = {}) {
    auto model = TorchModel::load(save_module(folder_, random_hex(64) + ".pt", source, fill), Origin::kUploaded,
                                  signature, limits);
    ASSERT_TRUE(model) << model.error().message;
    engine.add(
        std::make_shared<const LoadedVersion>(LoadedVersion{.key = key, .signature = signature, .model = *model}));
  }

  // With a digest, which marks are named after.
  void add_uploaded(Engine& engine, const std::string& source) {
    auto model = TorchModel::load(save_module(folder_, "uploaded.pt", source), Origin::kUploaded, rows_of(2));
    ASSERT_TRUE(model);
    Digest digest;
    digest.bytes.fill(7);
    engine.add(std::make_shared<const LoadedVersion>(
        LoadedVersion{.key = kKey, .signature = rows_of(2), .model = *model, .digest = digest, .uploaded = true}));
  }

  static CheckedInputs inputs(const std::vector<float>& values, std::int64_t width = 2) {
    const auto rows = static_cast<std::int64_t>(values.size()) / width;
    return {.specs = {f32("x", {rows, width})}, .frames = {Frame::of(values)}, .rows = rows};
  }

  static std::future<Result<Answer>> submit(Engine& engine, CheckedInputs request, Asker asker = {},
                                            std::optional<Clock::time_point> deadline = {},
                                            const msg::VersionKey& key = kKey, bool alone = false) {
    auto promise = std::make_shared<std::promise<Result<Answer>>>();
    auto future = promise->get_future();
    engine.submit(
        key, std::move(request), std::move(asker), deadline,
        [promise](Result<Answer> answer) { promise->set_value(std::move(answer)); }, alone);
    return future;
  }

  static std::vector<float> values(const Answer& answer) {
    std::vector<float> out(answer.payload[0].size() / 4);
    std::memcpy(out.data(), answer.payload[0].data(), answer.payload[0].size());
    return out;
  }

  Folder folder_;
};

// Promise 9: many callers at once, rows of different counts and values, each gets the double of what it sent.
TEST_F(EngineTest, NeverMixesTheAnswersOfABatch) {
  Engine engine({.instances = 2, .limits = {.max_rows = 8, .max_queued_rows = 100'000, .max_wait = 0us}});
  add(engine, kDouble, rows_of(-1));
  std::vector<std::thread> callers;
  std::atomic<int> right{0};
  for (unsigned c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      std::mt19937 random(c);
      std::vector<std::pair<std::vector<float>, std::future<Result<Answer>>>> asked;
      for (int i = 0; i < 300; ++i) {
        const std::int64_t width = 1 + static_cast<std::int64_t>(random() % 3);
        std::vector<float> sent(static_cast<std::size_t>(width) * (1 + random() % 20));
        for (float& value : sent) value = static_cast<float>(random() % 1'000'000);
        auto future = submit(engine, inputs(sent, width));
        asked.emplace_back(std::move(sent), std::move(future));
      }
      for (auto& [sent, future] : asked) {
        auto answer = future.get();
        ASSERT_TRUE(answer) << answer.error().message;
        for (float& value : sent) value *= 2;
        ASSERT_EQ(values(*answer), sent);
        ++right;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(right, 1200);
  EXPECT_EQ(engine.outstanding(), 0U);
}

TEST_F(EngineTest, JoinsARequestLargerThanABatch) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 16, .max_wait = 0us}});
  add(engine, kDouble);
  std::vector<float> sent(22);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<float>(i);
  auto answer = submit(engine, inputs(sent)).get();
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->outputs[0].shape, (std::vector<std::int64_t>{11, 2}));
  for (float& value : sent) value *= 2;
  EXPECT_EQ(values(*answer), sent);
}

TEST_F(EngineTest, RefusesMoreRowsThanTheQueueHolds) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 16, .max_wait = 0us}});
  add(engine, kDouble);
  EXPECT_TRUE(submit(engine, inputs(std::vector<float>(32))).get());
  EXPECT_EQ(submit(engine, inputs(std::vector<float>(34))).get().error().code, Code::kTooLarge);
}

TEST_F(EngineTest, RefusesWhatTheQueueHasNoRoomFor) {
  Engine engine({.instances = 1, .limits = {.max_rows = 1, .max_queued_rows = 2, .max_wait = 0us}});
  add(engine, kSlow);
  std::vector<std::future<Result<Answer>>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(submit(engine, inputs({1, 2})));
  int overloaded = 0;
  for (auto& future : futures) {
    const auto answer = future.get();
    if (answer) continue;
    EXPECT_EQ(answer.error().code, Code::kOverloaded);
    ++overloaded;
  }
  EXPECT_GE(overloaded, 1);
  EXPECT_LT(overloaded, 20);
}

TEST_F(EngineTest, RefusesMoreBytesThanMayWait) {
  Engine engine({.instances = 1, .limits = {}, .max_queued_bytes = 16});
  add(engine, kDouble);
  EXPECT_TRUE(submit(engine, inputs({1, 2, 3, 4})).get());
  EXPECT_EQ(submit(engine, inputs({1, 2, 3, 4, 5, 6})).get().error().code, Code::kOverloaded);
}

TEST_F(EngineTest, AVersionThatIsNotThereIsNotFound) {
  Engine engine({});
  EXPECT_EQ(submit(engine, inputs({1, 2})).get().error().code, Code::kNotFound);
}

TEST_F(EngineTest, LateWorkIsAnsweredAndNotRun) {
  Engine engine({.instances = 1, .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us}});
  add(engine, kSlow);
  auto first = submit(engine, inputs({1, 2}));
  auto late = submit(engine, inputs({1, 2}), {}, Clock::now() + 1us);
  EXPECT_EQ(late.get().error().code, Code::kDeadlineExceeded);
  EXPECT_TRUE(first.get());
}

TEST_F(EngineTest, ExpireAnswersLateWorkWhileAllInstancesAreBusy) {
  Engine engine({.instances = 1, .limits = {.max_rows = 8, .max_queued_rows = 100, .max_wait = 1h}});
  add(engine, kDouble);
  const auto deadline = Clock::now() + 1h;
  auto waiting = submit(engine, inputs({1, 2}), {}, deadline);
  engine.expire(deadline - 1us);
  EXPECT_EQ(engine.outstanding(), 1U);
  engine.expire(deadline);
  EXPECT_EQ(waiting.get().error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(engine.outstanding(), 0U);
}

TEST_F(EngineTest, CancelForgetsWhatWaitsAndOnlyThat) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 100, .max_wait = 1h}});
  add(engine, kDouble);
  auto kept = submit(engine, inputs({1, 2}), {.socket = {}, .peer = "a", .correlation = 1});
  bool called = false;
  engine.submit(kKey, inputs({1, 2, 3, 4, 5, 6}), {.socket = {}, .peer = "a", .correlation = 2}, {},
                [&](const Result<Answer>&) { called = true; });
  // Four rows wait now, so the batch would run; cancel may come too late for it, but never twice.
  engine.cancel({.socket = {}, .peer = "a", .correlation = 3});
  EXPECT_TRUE(kept.get());
  auto cancelled = submit(engine, inputs({1, 2}), {.socket = {}, .peer = "a", .correlation = 4});
  engine.cancel({.socket = {}, .peer = "a", .correlation = 4});
  EXPECT_EQ(engine.remove_if_idle(kKey), true);
  engine.stop();
  EXPECT_TRUE(called);
  EXPECT_THROW(cancelled.get(), std::future_error);
}

TEST_F(EngineTest, OneBadRequestDoesNotFailTheOthersOfItsBatch) {
  Engine engine({.instances = 1, .limits = {.max_rows = 3, .max_queued_rows = 100, .max_wait = 1h}});
  add(engine, "def forward(self, x):\n  assert bool(torch.all(torch.le(x, 9.0))), 'too large'\n  return x * 2\n");
  auto good = submit(engine, inputs({1, 2}));
  auto bad = submit(engine, inputs({10, 2}));
  auto other = submit(engine, inputs({3, 4}));
  EXPECT_EQ(values(*good.get()), (std::vector<float>{2, 4}));
  EXPECT_EQ(values(*other.get()), (std::vector<float>{6, 8}));
  const auto answer = bad.get();
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::kInvalidArgument);
}

TEST_F(EngineTest, AVersionThatIsNotBatchableRunsItsRequestsOneByOne) {
  Engine engine({.instances = 1, .limits = {.max_rows = 8, .max_queued_rows = 100, .max_wait = 0us}});
  const Signature fixed{.inputs = {f32("x", {1, 2})}, .outputs = {f32("y", {})}, .classes = {}};
  add(engine, "def forward(self, x):\n  return torch.sum(x)\n", fixed);
  auto first = submit(engine, {.specs = fixed.inputs, .frames = {Frame::of(std::vector<float>{1, 2})}, .rows = 1});
  auto second = submit(engine, {.specs = fixed.inputs, .frames = {Frame::of(std::vector<float>{3, 4})}, .rows = 1});
  EXPECT_EQ(values(*first.get()), std::vector<float>{3});
  EXPECT_EQ(values(*second.get()), std::vector<float>{7});
}

TEST_F(EngineTest, TheWatchdogKnowsWhatRunsAndUntilWhenItMay) {
  Watchdog watchdog;
  Engine engine({.instances = 1,
                 .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us},
                 .stuck_after = 1h,
                 .watchdog = &watchdog});
  add(engine, kSlow);
  const auto deadline = Clock::now() + 10h;
  auto running = submit(engine, inputs({1, 2}), {}, deadline);
  std::optional<Watchdog::Run> run;
  while (!run && running.wait_for(0s) != std::future_status::ready) run = watchdog.overdue(Clock::now() + 100h);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->key, kKey);
  EXPECT_EQ(run->until, deadline + 1h);
  ASSERT_TRUE(running.get());
  EXPECT_FALSE(watchdog.overdue(Clock::now() + 100h));
}

TEST_F(EngineTest, TheFirstRunOfAnUploadedFileLeavesAMarkWhileItLasts) {
  const auto marks = folder_.path() / "marks";
  std::filesystem::create_directories(marks);
  Engine engine({.limits = {.max_rows = 1, .max_queued_rows = 10, .max_wait = 0us}, .marks = marks});
  add_uploaded(engine, kSlow);
  const auto marked = [&] { return !std::filesystem::is_empty(marks); };

  auto first = submit(engine, inputs({1, 2}));
  bool seen = false;
  while (first.wait_for(0s) != std::future_status::ready) seen = seen || marked();
  EXPECT_TRUE(seen);
  ASSERT_TRUE(first.get());
  EXPECT_FALSE(marked());

  const auto touched = std::filesystem::last_write_time(marks);
  ASSERT_TRUE(submit(engine, inputs({1, 2})).get());
  EXPECT_EQ(std::filesystem::last_write_time(marks), touched);
}

TEST_F(EngineTest, WhatWaitsForAVersionCanBeRefused) {
  Engine engine({.instances = 1, .limits = {.max_rows = 1, .max_queued_rows = 10, .max_wait = 0us}});
  add(engine, kSlow);
  auto runs = submit(engine, inputs({1, 2}));
  auto waits = submit(engine, inputs({3, 4}));
  engine.fail_waiting(kKey, {.code = Code::kInvalidArgument, .message = "quarantined", .path = {}});
  EXPECT_EQ(waits.get().error().message, "quarantined");
  EXPECT_EQ(submit(engine, inputs({5, 6})).get().error().message, "quarantined");
  static_cast<void>(runs.get());  // it may have been either: begun, or not yet
  add(engine, kSlow);             // free again
  EXPECT_TRUE(submit(engine, inputs({1, 2})).get());
}

TEST_F(EngineTest, OfBatchesThatRunAtOnceOnlyTheFirstLeavesAMark) {
  const auto marks = folder_.path() / "marks";
  std::filesystem::create_directories(marks);
  Engine engine({.instances = 3, .limits = {.max_rows = 1, .max_queued_rows = 10, .max_wait = 0us}, .marks = marks});
  add_uploaded(engine, kSlow);
  std::vector<std::future<Result<Answer>>> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(submit(engine, inputs({1, 2})));
  std::ptrdiff_t most = 0;
  const auto done = [](const auto& future) { return future.wait_for(0s) == std::future_status::ready; };
  while (!std::ranges::all_of(asked, done)) {
    std::error_code gone;
    const std::filesystem::directory_iterator all(marks, gone);
    most = std::max(most, std::distance(begin(all), end(all)));
  }
  EXPECT_EQ(most, 1);
}

TEST_F(EngineTest, AnExceptionOfWhoeverTakesAnAnswerEndsNoThread) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 100, .max_wait = 0us}});
  add(engine, kDouble);
  engine.submit(kKey, inputs({1, 2}), {}, {}, [](const Result<Answer>&) { throw std::bad_alloc(); });
  EXPECT_TRUE(submit(engine, inputs({1, 2})).get());
}

TEST_F(EngineTest, ABusyVersionCannotBeRemoved) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 100, .max_wait = 1h}});
  add(engine, kDouble);
  auto waiting = submit(engine, inputs({1, 2}));
  EXPECT_FALSE(engine.remove_if_idle(kKey));
  EXPECT_TRUE(engine.remove_if_idle({"other", 1}));
  engine.stop();
  EXPECT_EQ(waiting.get().error().code, Code::kUnavailable);
}

const msg::VersionKey kOther{"other", 1};

template <class T>
bool is_ready(const std::future<T>& future) {
  return future.wait_for(0s) == std::future_status::ready;
}

TEST_F(EngineTest, ARequestThatMustBeAloneRunsInABatchOfItsOwn) {
  // Long enough for all four to be there when the first is due.
  Engine engine({.instances = 1, .limits = {.max_rows = 8, .max_queued_rows = 100, .max_wait = 300ms}});
  for (const std::int64_t width : {std::int64_t{2}, std::int64_t{-1}}) {
    add(engine, kDouble, rows_of(width));
    auto first = submit(engine, inputs({1, 2}));
    auto alone = submit(engine, inputs({3, 4}), {}, {}, kKey, true);
    auto other = submit(engine, inputs({5, 6}), {}, {}, kKey, true);
    auto second = submit(engine, inputs({7, 8}));
    EXPECT_EQ(first.get()->batch_rows, 2);
    EXPECT_EQ(second.get()->batch_rows, 2);
    EXPECT_EQ(alone.get()->batch_rows, 1);
    const auto last = other.get();
    EXPECT_EQ(last->batch_rows, 1);
    EXPECT_EQ(values(*last), (std::vector<float>{10, 12}));
    ASSERT_TRUE(engine.remove_if_idle(kKey));
  }
}

TEST_F(EngineTest, OneVersionCannotTakeAllThePlacesFromTheOthers) {
  Engine engine(
      {.instances = 1, .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us}, .max_requests = 8});
  add(engine, kSlow);
  add(engine, kDouble, rows_of(2), kOther);
  std::vector<std::future<Result<Answer>>> slow;
  for (int i = 0; i < 20; ++i) slow.push_back(submit(engine, inputs({1, 2})));
  std::vector<std::future<Result<Answer>>> others;
  for (int i = 0; i < 2; ++i) others.push_back(submit(engine, inputs({1, 2}), {}, {}, kOther));
  for (auto& each : others) EXPECT_TRUE(each.get());
  EXPECT_FALSE(is_ready(slow[3]));  // fairness: they did not wait for all that came before
  int refused = 0;
  for (auto& each : slow) {
    const auto answer = each.get();
    if (answer) continue;
    EXPECT_EQ(answer.error().code, Code::kOverloaded);
    EXPECT_TRUE(answer.error().message.contains("of at most 8")) << answer.error().message;
    ++refused;
  }
  EXPECT_EQ(refused, 16);
}

TEST_F(EngineTest, TheOnlyVersionMayHaveAllThePlaces) {
  Engine engine(
      {.instances = 1, .limits = {.max_rows = 8, .max_queued_rows = 100, .max_wait = 0us}, .max_requests = 8});
  add(engine, kDouble);
  std::vector<std::future<Result<Answer>>> all;
  for (int i = 0; i < 50; ++i) all.push_back(submit(engine, inputs({1, 2})));
  for (auto& each : all) EXPECT_TRUE(each.get());
}

TEST_F(EngineTest, OneVersionCannotTakeAllTheBytesFromTheOthers) {
  Engine engine(
      {.instances = 1, .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us}, .max_queued_bytes = 80});
  add(engine, kSlow);
  add(engine, kDouble, rows_of(2), kOther);
  std::vector<std::future<Result<Answer>>> slow;
  for (int i = 0; i < 20; ++i) slow.push_back(submit(engine, inputs({1, 2})));
  EXPECT_TRUE(submit(engine, inputs({1, 2, 3, 4}), {}, {}, kOther).get());
  int taken = 0;
  for (auto& each : slow) taken += each.get() ? 1 : 0;
  EXPECT_GE(taken, 5);
  EXPECT_LE(taken, 7);  // half of the bytes, and what had begun meanwhile
}

TEST_F(EngineTest, ASlowVersionLeavesOneInstanceToTheOthers) {
  Engine engine(
      {.instances = 2, .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us}, .slow_batch = 0ms});
  add(engine, kSlow);
  add(engine, kDouble, rows_of(2), kOther);
  std::vector<std::future<Result<Answer>>> slow;
  for (int i = 0; i < 6; ++i) slow.push_back(submit(engine, inputs({1, 2})));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(submit(engine, inputs({1, 2}), {}, {}, kOther).get());
  EXPECT_FALSE(is_ready(slow[2]));
  for (auto& each : slow) EXPECT_TRUE(each.get());
}

TEST_F(EngineTest, TheBatchesOfALargeRequestRunOnAllInstances) {
  Watchdog watchdog;
  Engine engine(
      {.instances = 2, .limits = {.max_rows = 1, .max_queued_rows = 100, .max_wait = 0us}, .watchdog = &watchdog});
  add(engine, kSlow);
  ASSERT_TRUE(submit(engine, inputs({1, 2})).get());  // both threads then wait
  auto large = submit(engine, inputs({1, 2, 3, 4, 5, 6, 7, 8}));
  std::size_t most = 0;
  while (!is_ready(large)) most = std::max(most, watchdog.running());
  EXPECT_EQ(most, 2U);
  EXPECT_TRUE(large.get());
}

TEST_F(EngineTest, AJoinedAnswerOverTheLimitIsRefused) {
  Engine engine({.instances = 1, .limits = {.max_rows = 4, .max_queued_rows = 16, .max_wait = 0us}});
  add(engine, kDouble, rows_of(2), kKey, {.tensor_bytes = 40});
  EXPECT_TRUE(submit(engine, inputs(std::vector<float>(10))).get());
  const auto refused = submit(engine, inputs(std::vector<float>(12))).get();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
  EXPECT_TRUE(refused.error().message.contains("48 bytes")) << refused.error().message;
}

TEST_F(EngineTest, AModelThatKeepsAListIsRunByOneInstanceAtATime) {
  Engine engine({.instances = 2, .limits = {.max_rows = 1, .max_queued_rows = 10'000, .max_wait = 0us}});
  add(engine, "def forward(self, x):\n  self.items.append(x)\n  return x * 0 + len(self.items)\n", rows_of(2), kKey, {},
      [](torch::jit::Module& module) {
        module.register_attribute("items", c10::ListType::ofTensors(), c10::List<at::Tensor>());
      });
  std::vector<std::future<Result<Answer>>> all;
  for (int i = 0; i < 2000; ++i) all.push_back(submit(engine, inputs({1, 2})));
  std::set<float> counts;
  for (auto& each : all) {
    const auto answer = each.get();
    ASSERT_TRUE(answer) << answer.error().message;
    counts.insert(values(*answer)[0]);
  }
  EXPECT_EQ(counts.size(), 2000U);
}

// With a scan of all for each these would be thousands of millions of steps under the lock.
TEST_F(EngineTest, ManyRequestsAreCancelledAndExpireOneByOne) {
  constexpr int kMany = 40'000;
  Engine engine({.instances = 1, .limits = {.max_rows = 2 * kMany, .max_queued_rows = 2 * kMany, .max_wait = 1h}});
  add(engine, kDouble);
  const auto deadline = Clock::now() + 1h;
  std::atomic<int> late{0};
  for (std::uint64_t i = 1; i <= kMany; ++i) {
    engine.submit(kKey, inputs({1, 2}), {.socket = {}, .peer = "a", .correlation = i}, deadline + i * 1us,
                  [&](const Result<Answer>& answer) {
                    EXPECT_EQ(answer.error().code, Code::kDeadlineExceeded);
                    ++late;
                  });
  }
  for (std::uint64_t i = kMany; i > 0; i -= 2) engine.cancel({.socket = {}, .peer = "a", .correlation = i});
  EXPECT_EQ(engine.outstanding(), kMany / 2U);
  for (std::uint64_t i = 1; i <= kMany; ++i) engine.expire(deadline + i * 1us);
  EXPECT_EQ(late, kMany / 2);
  EXPECT_EQ(engine.outstanding(), 0U);
  EXPECT_TRUE(engine.remove_if_idle(kKey));
}

TEST_F(EngineTest, IsIdleSinceItsLatestBatch) {
  Engine engine({.instances = 1, .limits = {}});
  add(engine, kDouble);
  EXPECT_EQ(engine.idle_since(), std::nullopt);
  const auto before = Clock::now();
  ASSERT_TRUE(submit(engine, inputs({1, 2})).get());
  const auto idle = engine.idle_since();
  ASSERT_TRUE(idle);
  EXPECT_GE(*idle, before);
}

}  // namespace
}  // namespace slipway::inferencer

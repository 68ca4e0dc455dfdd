#include "services/gateway/inference_router.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using Now = WorkerTable::TimePoint;
constexpr Now kStart{};

struct Fixture : testing::Test {
  WorkerTable workers{"r"};
  InferenceRouter router{workers, 2};
  InferenceRouter::Actions out;

  void join(const Peer& peer, std::uint32_t credits, Now now = kStart) {
    ASSERT_TRUE(workers.on_hello(
        peer, {.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId(peer), .host = ""}, now));
    ASSERT_TRUE(workers.on_heartbeat(peer, {.credits = credits, .loaded = {}, .draining = false}, now));
  }
  void submit(std::uint64_t id, Now deadline = kStart + 1s) {
    router.submit(RequestId{id}, std::nullopt, 1, deadline, kStart, out);
  }
  template <class T>
  std::vector<T> take() {
    std::vector<T> found;
    for (auto& action : out) {
      if (auto* wanted = std::get_if<T>(&action)) found.push_back(*wanted);
    }
    out.clear();
    return found;
  }
};
using InferenceRouterTest = Fixture;

TEST_F(InferenceRouterTest, WithoutInferencersSaysSo) {
  submit(1);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kUnavailable);
}

TEST_F(InferenceRouterTest, QueuesWithoutCreditAndRefusesWhenFull) {
  join("a", 1);
  for (std::uint64_t id = 1; id <= 3; ++id) submit(id);
  EXPECT_EQ(take<SendTo>().size(), 1U);
  EXPECT_EQ(router.queued(), 2U);
  submit(4);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kOverloaded);
  EXPECT_GT(failed[0].error.retry_after.count(), 0);
}

TEST_F(InferenceRouterTest, AnAnswerFreesTheCreditForTheNextInLine) {
  join("a", 1);
  submit(1);
  submit(2);
  const auto first = take<SendTo>();
  EXPECT_EQ(router.on_answer("a", first[0].attempt, kStart, out), RequestId{1});
  const auto second = take<SendTo>();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].request, RequestId{2});
  EXPECT_EQ(router.on_answer("a", first[0].attempt, kStart, out), std::nullopt) << "answered before";
}

TEST_F(InferenceRouterTest, ALostWorkersRequestsAreTriedOnceMore) {
  join("a", 1);
  join("b", 1);
  submit(1);
  const auto first = take<SendTo>();
  const Peer other = first[0].peer == "a" ? "b" : "a";
  workers.remove(first[0].peer);
  router.on_peer_lost(first[0].peer, kStart, out);
  const auto second = take<SendTo>();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].peer, other);
  EXPECT_NE(second[0].attempt, first[0].attempt);
  EXPECT_EQ(router.on_answer(first[0].peer, first[0].attempt, kStart, out), std::nullopt) << "a late answer";
  workers.remove(other);
  router.on_peer_lost(other, kStart, out);
  EXPECT_EQ(take<Failed>().size(), 1U);
  EXPECT_EQ(router.open(), 0U);
}

TEST_F(InferenceRouterTest, ADeadlineFailsAndCancels) {
  join("a", 1);
  submit(1);
  submit(2);
  out.clear();
  router.on_tick(kStart + 999ms, out);
  EXPECT_TRUE(out.empty());
  router.on_tick(kStart + 1s, out);
  EXPECT_EQ(std::ranges::count_if(out, [](const auto& a) { return std::holds_alternative<CancelAt>(a); }), 1);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 2U);
  EXPECT_EQ(failed[0].error.code, Code::kDeadlineExceeded);
  EXPECT_EQ(router.open(), 0U);
}

TEST_F(InferenceRouterTest, CancelTellsTheWorkerAndHasNoOutcome) {
  join("a", 1);
  submit(1);
  out.clear();
  router.cancel(RequestId{1}, kStart, out);
  EXPECT_EQ(take<CancelAt>().size(), 1U);
  EXPECT_EQ(router.open(), 0U);
}

TEST_F(InferenceRouterTest, AWrongInputIsNotTriedAgain) {
  join("a", 1);
  join("b", 1);
  submit(1);
  const auto sent = take<SendTo>();
  router.on_error(sent[0].peer, sent[0].attempt, {.code = Code::kInvalidArgument, .message = "", .path = {}}, kStart,
                  out);
  EXPECT_EQ(take<Failed>().size(), 1U);
}

// Messages are dropped, doubled and reordered, workers crash and come back under new names: every request has exactly
// one outcome, no worker has more than its credit, and nothing is left over.
TEST(InferenceRouterSimulation, EveryRequestHasExactlyOneOutcome) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
    WorkerTable workers("r");
    InferenceRouter router(workers, 10);
    Now now = kStart;
    struct Running {
      Peer peer;
      std::uint64_t attempt;
    };
    std::vector<Running> running;
    std::map<std::uint64_t, int> outcomes;
    std::vector<Peer> alive;
    std::map<Peer, std::uint32_t> credits;
    std::uint64_t next_peer = 0, next_id = 1;
    InferenceRouter::Actions out;
    const auto act = [&] {
      for (std::size_t i = 0; i < out.size(); ++i) {
        const RouterAction action = out[i];
        if (const auto* sent = std::get_if<SendTo>(&action)) {
          const auto* worker = workers.find(sent->peer);
          ASSERT_NE(worker, nullptr);
          ASSERT_LE(worker->outstanding, worker->credits);
          if (chance(3))
            router.on_send_failed(sent->attempt, now, out);
          else if (!chance(5))
            running.push_back({sent->peer, sent->attempt});
        } else if (const auto* failed = std::get_if<Failed>(&action)) {
          ++outcomes[static_cast<std::uint64_t>(failed->request)];
        }
      }
      out.clear();
    };
    const auto step = [&](bool submitting) {
      now += std::chrono::milliseconds(random() % 20);
      if (submitting && chance(50)) {
        const std::uint64_t id = next_id++;
        outcomes[id] = 0;
        router.submit(RequestId{id}, std::nullopt, 1 + random() % 4, now + std::chrono::milliseconds(random() % 500),
                      now, out);
        act();
      }
      if (alive.size() < 4 && chance(10)) {
        const Peer peer = std::format("p{}", next_peer++);
        ASSERT_TRUE(workers.on_hello(
            peer, {.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId(peer), .host = ""}, now));
        ASSERT_TRUE(workers.on_heartbeat(
            peer, {.credits = 1 + static_cast<std::uint32_t>(random() % 4), .loaded = {}, .draining = false}, now));
        alive.push_back(peer);
        router.pump(now, out);
        act();
      }
      if (!alive.empty() && chance(4)) {
        const std::size_t victim = random() % alive.size();
        const Peer peer = alive[victim];
        alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(victim));
        workers.remove(peer);
        router.on_peer_lost(peer, now, out);
        act();
      }
      if (!running.empty() && chance(60)) {
        const std::size_t which = random() % running.size();
        const Running answer = running[which];
        if (!chance(10)) running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));  // else it comes twice
        if (chance(10)) {
          router.on_error(answer.peer, answer.attempt,
                          {.code = chance(50) ? Code::kUnavailable : Code::kInternal, .message = "", .path = {}}, now,
                          out);
        } else if (const auto id = router.on_answer(answer.peer, answer.attempt, now, out)) {
          ++outcomes[static_cast<std::uint64_t>(*id)];
        }
        act();
      }
      if (chance(3) && next_id > 1) {
        const std::uint64_t id = 1 + random() % (next_id - 1);
        if (outcomes[id] == 0)
          ++outcomes[id];  // the client's own end
        else {
          router.cancel(RequestId{id}, now, out);
          act();
          return;
        }
        router.cancel(RequestId{id}, now, out);
        act();
      }
      router.on_tick(now, out);
      act();
    };
    for (int i = 0; i < 400; ++i) step(true);
    for (int i = 0; i < 200; ++i) step(false);
    for (const auto& [id, count] : outcomes) ASSERT_EQ(count, 1) << "request " << id << " seed " << seed;
    ASSERT_EQ(router.open(), 0U);
    ASSERT_EQ(router.queued(), 0U);
    for (const Peer& peer : alive) ASSERT_EQ(workers.find(peer)->outstanding, 0U);
  }
}

}  // namespace
}  // namespace slipway::gateway

#include "services/gateway/inference_router.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <random>
#include <ranges>
#include <set>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using Now = WorkerTable::TimePoint;
constexpr Now kStart{};

struct Fixture : testing::Test {
  WorkerTable workers{"r"};
  InferenceRouter router{workers, 2, kStart - InferenceRouter::kPatience};
  InferenceRouter::Actions out;

  void join(const Peer& peer, std::uint32_t credits, Now now = kStart) {
    ASSERT_TRUE(workers.on_hello(
        peer, {.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId(peer), .host = ""}, now));
    ASSERT_TRUE(workers.on_heartbeat(peer, {.credits = credits, .loaded = {}, .draining = false}, now));
  }
  void submit(std::uint64_t id, Now deadline = kStart + 1s) {
    router.submit(RequestId{id}, {.version = {}, .uploaded = false, .rows = 1, .deadline = deadline}, kStart, out);
  }
  void submit_version(std::uint64_t id, const msg::VersionKey& version, bool uploaded) {
    router.submit(RequestId{id}, {.version = version, .uploaded = uploaded, .rows = 1, .deadline = kStart + 1s}, kStart,
                  out);
  }
  // Goes without a word, with all that it had.
  void lose(const Peer& peer, Now now = kStart) {
    workers.remove(peer);
    router.on_peer_lost(peer, now, out);
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

// With a scan of all for each these would be thousands of millions of steps on the bus thread.
TEST_F(InferenceRouterTest, ManyRequestsAreCancelledAndExpireOneByOne) {
  constexpr std::uint64_t kMany = 40'000;
  InferenceRouter many(workers, kMany, kStart - InferenceRouter::kPatience);
  join("a", 0);
  for (std::uint64_t i = 1; i <= kMany; ++i) {
    many.submit(RequestId{i}, {.version = {}, .uploaded = false, .rows = 1, .deadline = kStart + 1s + i * 1us}, kStart,
                out);
  }
  EXPECT_EQ(many.queued(), kMany);
  for (std::uint64_t i = kMany; i > 0; i -= 2) many.cancel(RequestId{i}, kStart, out);
  EXPECT_EQ(many.queued(), kMany / 2);
  EXPECT_TRUE(out.empty());
  for (std::uint64_t i = 1; i <= kMany; ++i) many.on_tick(kStart + 1s + i * 1us, out);
  EXPECT_EQ(take<Failed>().size(), kMany / 2);
  EXPECT_EQ(many.open(), 0U);
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

TEST_F(InferenceRouterTest, AfterTheStartRequestsWaitForTheFirstInferencer) {
  InferenceRouter fresh(workers, 2, kStart);
  const auto ask = [&](std::uint64_t id, Now deadline) {
    fresh.submit(RequestId{id}, {.version = {}, .uploaded = false, .rows = 1, .deadline = deadline}, kStart, out);
  };
  ask(1, kStart + 5s);
  ask(2, kStart + 1s);
  EXPECT_EQ(fresh.queued(), 2U);
  fresh.on_tick(kStart + 1s, out);  // a deadline is kept all the same
  auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kDeadlineExceeded);
  fresh.on_tick(kStart + 1999ms, out);
  EXPECT_TRUE(out.empty());
  join("a", 1);
  fresh.pump(kStart + 1999ms, out);
  EXPECT_EQ(take<SendTo>().size(), 1U);
}

TEST_F(InferenceRouterTest, ThenItSaysThatThereIsNone) {
  InferenceRouter fresh(workers, 2, kStart);
  fresh.submit(RequestId{1}, {.version = {}, .uploaded = false, .rows = 1, .deadline = kStart + 5s}, kStart, out);
  fresh.on_tick(kStart + 2s, out);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kUnavailable);
  EXPECT_EQ(fresh.open(), 0U);
}

TEST_F(InferenceRouterTest, WhenTheLastInferencerIsLostNewRequestsWaitForAnother) {
  join("a", 1);
  lose("a");
  router.submit(RequestId{1}, {.version = {}, .uploaded = false, .rows = 1, .deadline = kStart + 5s}, kStart + 1s, out);
  EXPECT_TRUE(out.empty());
  router.on_tick(kStart + 2s, out);
  EXPECT_EQ(take<Failed>().size(), 1U);
}

const msg::VersionKey kVersion{.model = "m", .version = 1};

TEST_F(InferenceRouterTest, AVersionMadeHereIsTriedOnceMoreInBatchesAsBefore) {
  join("a", 1);
  join("b", 1);
  submit_version(1, kVersion, false);
  const auto first = take<SendTo>();
  ASSERT_EQ(first.size(), 1U);
  EXPECT_FALSE(first[0].alone);
  lose(first[0].peer);
  const auto second = take<SendTo>();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_FALSE(second[0].alone);
}

TEST_F(InferenceRouterTest, AnUploadedVersionThatNeverAnsweredDoesNotTakeASecondInferencer) {
  join("a", 1);
  join("b", 1);
  submit_version(1, kVersion, true);
  lose(take<SendTo>().at(0).peer);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kUnavailable);
  EXPECT_GT(failed[0].error.retry_after.count(), 0);
  EXPECT_THAT(failed[0].error.message, testing::HasSubstr("uploaded"));
  EXPECT_EQ(router.open(), 0U);
}

TEST_F(InferenceRouterTest, AnUploadedVersionThatHasAnsweredIsTriedOnceMoreAloneAndOnlyOnce) {
  join("a", 1);
  join("b", 1);
  join("c", 1);
  submit_version(1, kVersion, true);
  const auto proof = take<SendTo>().at(0);
  ASSERT_EQ(router.on_answer(proof.peer, proof.attempt, kStart, out), RequestId{1});
  submit_version(2, kVersion, true);
  lose(take<SendTo>().at(0).peer);
  const auto second = take<SendTo>();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_TRUE(second[0].alone);
  lose(second[0].peer);
  EXPECT_EQ(take<Failed>().size(), 1U);
  EXPECT_EQ(router.retries(), 1U);
  // Another version of the model has proven nothing.
  submit_version(3, {.model = "m", .version = 2}, true);
  lose(take<SendTo>().at(0).peer);
  EXPECT_EQ(take<Failed>().size(), 1U);
}

// Each of its requests may be the one that ends an inferencer: then one ends one, not two.
TEST_F(InferenceRouterTest, AnUploadedVersionWithWhichInferencersAreLostTakesASecondOneOnlyOnceInAWhile) {
  for (const char* peer : {"a", "b", "c", "d", "e", "f"}) join(peer, 4);
  const msg::VersionKey other{.model = "other", .version = 1}, made_here{.model = "here", .version = 1};
  const auto prove = [&](std::uint64_t id, const msg::VersionKey& version) {
    submit_version(id, version, true);
    const auto sent = take<SendTo>().at(0);
    ASSERT_EQ(router.on_answer(sent.peer, sent.attempt, kStart, out), RequestId{id});
  };
  prove(1, kVersion);
  prove(2, other);

  // All that were with the first are tried once more, however many they are.
  std::map<RequestId, SendTo> sent;
  Peer first;
  while (sent.size() < 13) {
    submit_version(10 + sent.size(), kVersion, true);
    const SendTo one = take<SendTo>().at(0);
    if (sent.empty()) first = one.peer;
    sent.emplace(one.request, one);
  }
  const auto were_there = std::ranges::count_if(sent, [&](const auto& one) { return one.second.peer == first; });
  ASSERT_GE(were_there, 2);
  lose(first);
  const auto again = take<SendTo>();
  EXPECT_EQ(std::ssize(again), were_there);
  EXPECT_TRUE(std::ranges::all_of(again, &SendTo::alone));
  for (const SendTo& one : again) sent.at(one.request) = one;
  for (const auto& [id, one] : sent) ASSERT_EQ(router.on_answer(one.peer, one.attempt, kStart, out), id);
  out.clear();

  // With the second it is not; what is not under suspicion is.
  const auto with_one_peer = [&](std::uint64_t id, const msg::VersionKey& version, bool uploaded, Now now) {
    router.submit(RequestId{id}, {.version = version, .uploaded = uploaded, .rows = 1, .deadline = now + 1s}, now, out);
    lose(take<SendTo>().at(0).peer, now);
  };
  with_one_peer(40, kVersion, true, kStart + 1s);
  const auto failed = take<Failed>();
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_EQ(failed[0].error.code, Code::kUnavailable);
  EXPECT_GT(failed[0].error.retry_after.count(), 0);
  EXPECT_THAT(failed[0].error.message, testing::HasSubstr("second within 5 minutes"));
  for (const auto& [version, uploaded] : {std::pair(other, true), std::pair(made_here, false)}) {
    with_one_peer(uploaded ? 41 : 42, version, uploaded, kStart + 2s);
    const auto tried = take<SendTo>();
    ASSERT_EQ(tried.size(), 1U) << version.model;
    ASSERT_TRUE(router.on_answer(tried[0].peer, tried[0].attempt, kStart + 2s, out));
    out.clear();
  }

  // The suspicion ends.
  join("g", 4);
  const Now later = kStart + 1s + InferenceRouter::kSuspect;
  with_one_peer(50, kVersion, true, later);
  EXPECT_EQ(take<SendTo>().size(), 1U);
}

TEST_F(InferenceRouterTest, ASecondLossEndsTheWaitForASecondTryToo) {
  for (const char* peer : {"a", "b"}) join(peer, 1);
  submit_version(1, kVersion, true);
  const auto proof = take<SendTo>().at(0);
  ASSERT_EQ(router.on_answer(proof.peer, proof.attempt, kStart, out), RequestId{1});
  submit_version(2, kVersion, true);
  submit_version(3, kVersion, true);
  const auto sent = take<SendTo>();
  ASSERT_EQ(sent.size(), 2U);
  lose(sent[0].peer);
  EXPECT_EQ(router.queued(), 1U);
  lose(sent[1].peer);
  EXPECT_EQ(take<Failed>().size(), 2U);
  EXPECT_EQ(router.open(), 0U);
}

TEST_F(InferenceRouterTest, ACrashThatWasToldIsNotTriedAgainWhatWasBesideItIs) {
  join("a", 2);
  submit_version(1, kVersion, true);
  submit_version(2, {.model = "other", .version = 1}, true);
  const auto sent = take<SendTo>();
  ASSERT_EQ(sent.size(), 2U);
  join("b", 2);
  router.on_error("a", sent[0].attempt, {.code = Code::kInternal, .message = "crashed", .path = {}}, kStart, out);
  router.on_error("a", sent[1].attempt, {.code = Code::kUnavailable, .message = "ending", .path = {}}, kStart, out);
  const auto again = std::ranges::count_if(out, [](const auto& a) { return std::holds_alternative<SendTo>(a); });
  EXPECT_EQ(again, 1);
  EXPECT_EQ(take<Failed>().size(), 1U);
}

struct SharedQueue : Fixture {
  static constexpr int kPlaces = 4;
  InferenceRouter shared{workers, kPlaces, kStart - InferenceRouter::kPatience};
  const msg::VersionKey a{.model = "a", .version = 1}, b{.model = "b", .version = 1}, c{.model = "c", .version = 1};

  // The requests that are sent, and those that fail for want of a place.
  struct Done {
    std::vector<int> sent;
    std::vector<int> failed;
    bool operator==(const Done&) const = default;
  };
  std::map<int, std::uint64_t> attempts;
  Done done() {
    Done all;
    for (const auto& action : out) {
      if (const auto* sent = std::get_if<SendTo>(&action)) {
        all.sent.push_back(static_cast<int>(sent->request));
        attempts[all.sent.back()] = sent->attempt;
      } else if (const auto* failed = std::get_if<Failed>(&action)) {
        EXPECT_EQ(failed->error.code, Code::kOverloaded);
        EXPECT_GT(failed->error.retry_after.count(), 0);
        all.failed.push_back(static_cast<int>(failed->request));
      }
    }
    out.clear();
    return all;
  }
  Done ask(int id, const std::optional<msg::VersionKey>& version) {
    shared.submit(RequestId(id), {.version = version, .uploaded = false, .rows = 1, .deadline = kStart + 1s}, kStart,
                  out);
    return done();
  }
  Done answer(int id) {
    EXPECT_EQ(shared.on_answer("worker", attempts.at(id), kStart, out), RequestId(id));
    return done();
  }
};
using InferenceRouterSharedQueueTest = SharedQueue;

TEST_F(InferenceRouterSharedQueueTest, CreditGoesToTheVersionWithTheFewestOutstanding) {
  join("worker", 2);
  EXPECT_EQ(ask(1, a), (Done{{1}, {}}));
  EXPECT_EQ(ask(2, a), (Done{{2}, {}}));
  EXPECT_EQ(ask(3, a), Done());
  EXPECT_EQ(ask(4, a), Done());
  EXPECT_EQ(ask(5, b), Done());
  EXPECT_EQ(ask(6, b), Done());
  EXPECT_EQ(answer(1), (Done{{5}, {}})) << "before those of the other version that came first";
  EXPECT_EQ(answer(2), (Done{{3}, {}}));
  EXPECT_EQ(answer(3), (Done{{4}, {}}));
  EXPECT_EQ(answer(4), (Done{{6}, {}}));
}

TEST_F(InferenceRouterSharedQueueTest, EqualVersionsAndInspectionsTakeTurns) {
  join("worker", 1);
  EXPECT_EQ(ask(1, a), (Done{{1}, {}}));
  EXPECT_EQ(ask(2, a), Done());
  EXPECT_EQ(ask(3, a), Done());
  EXPECT_EQ(ask(4, b), Done());
  EXPECT_EQ(ask(5, std::nullopt), Done());
  EXPECT_EQ(answer(1), (Done{{4}, {}}));
  EXPECT_EQ(answer(4), (Done{{5}, {}}));
  EXPECT_EQ(answer(5), (Done{{2}, {}}));
  EXPECT_EQ(answer(2), (Done{{3}, {}}));
}

TEST_F(InferenceRouterSharedQueueTest, AVersionHasHalfThePlacesWhileOthersAreHere) {
  join("worker", 1);
  EXPECT_EQ(ask(1, b), (Done{{1}, {}}));
  EXPECT_EQ(ask(2, a), Done());
  EXPECT_EQ(ask(3, a), Done());
  EXPECT_EQ(ask(4, a), (Done{{}, {4}}));
  EXPECT_EQ(ask(5, b), Done());
  EXPECT_EQ(answer(1), (Done{{2}, {}}));
  EXPECT_EQ(ask(6, a), Done()) << "one of its places is free again";
}

TEST_F(InferenceRouterSharedQueueTest, AVersionAloneHasAllPlacesAndMakesRoomForOthers) {
  join("worker", 1);
  EXPECT_EQ(ask(1, a), (Done{{1}, {}}));
  for (int id = 2; id <= 5; ++id) EXPECT_EQ(ask(id, a), Done());
  EXPECT_EQ(ask(6, a), (Done{{}, {6}}));
  EXPECT_EQ(ask(7, b), (Done{{}, {5}})) << "the last of those who are many";
  EXPECT_EQ(ask(8, b), (Done{{}, {4}}));
  EXPECT_EQ(ask(9, b), (Done{{}, {9}})) << "as many wait of either";
  EXPECT_EQ(ask(10, c).failed.size(), 1U);
  EXPECT_EQ(shared.load(c).queued, 1U);
  EXPECT_EQ(shared.queued(), 4U);
}

TEST_F(InferenceRouterSharedQueueTest, WithoutAPlaceNobodyWaits) {
  InferenceRouter none(workers, 0, kStart - InferenceRouter::kPatience);
  join("worker", 1);
  for (int id = 1; id <= 2; ++id) {
    none.submit(RequestId(id), {.version = a, .uploaded = false, .rows = 1, .deadline = kStart + 1s}, kStart, out);
  }
  EXPECT_EQ(done(), (Done{{1}, {2}}));
}

// Messages are dropped, doubled and reordered, workers crash and come back under new names: every request has exactly
// one outcome, no worker has more than its credit, no version has more than its part, and nothing is left over.
TEST(InferenceRouterSimulation, EveryRequestHasExactlyOneOutcome) {
  int displaced = 0, held_to_its_part = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
    WorkerTable workers("r");
    InferenceRouter router(workers, 10, kStart);
    Now now = kStart;
    struct Running {
      Peer peer;
      std::uint64_t attempt;
      std::uint64_t id;
    };
    struct Asked {
      std::optional<msg::VersionKey> version;
      bool uploaded;
      int sent = 0;
      int lost = 0;
    };
    std::map<std::uint64_t, Asked> asked;
    std::map<std::optional<msg::VersionKey>, std::uint64_t> first_sent;
    std::map<std::optional<msg::VersionKey>, InferenceRouter::Load> loads;
    const auto look = [&] {
      loads[std::nullopt] = router.load(std::nullopt);
      for (int m = 0; m < 3; ++m) {
        const msg::VersionKey key{.model = std::format("m{}", m), .version = 1};
        loads[key] = router.load(key);
      }
      std::size_t queued = 0, all = 0;
      for (const auto& [key, load] : loads) {
        queued += load.queued;
        all += load.queued + load.outstanding;
      }
      ASSERT_EQ(queued, router.queued());
      ASSERT_EQ(all, router.open());
    };
    std::set<msg::VersionKey> answered;
    std::map<msg::VersionKey, int> losses;  // of inferencers, with uploaded versions' requests
    std::vector<Running> with_workers;      // sent, and not answered
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
          Asked& of = asked[static_cast<std::uint64_t>(sent->request)];
          ASSERT_LE(++of.sent, 2);
          if (of.sent == 1) {
            auto& before = first_sent[of.version];
            ASSERT_LT(before, static_cast<std::uint64_t>(sent->request)) << "first come, first served";
            before = static_cast<std::uint64_t>(sent->request);
          }
          ASSERT_EQ(sent->alone, of.lost > 0 && of.uploaded) << "alone, and only then";
          // Nothing that may have ended an inferencer reaches a second one.
          ASSERT_TRUE(of.lost == 0 || !of.uploaded || (of.version && answered.contains(*of.version)));
          ASSERT_TRUE(of.lost == 0 || !of.uploaded || losses[*of.version] == 1) << "not after a second loss";
          with_workers.push_back({sent->peer, sent->attempt, static_cast<std::uint64_t>(sent->request)});
          if (chance(3)) {
            with_workers.pop_back();
            router.on_send_failed(sent->attempt, now, out);
          } else if (!chance(5)) {
            running.push_back(with_workers.back());
          }
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
        std::optional<msg::VersionKey> version;
        if (chance(80)) version = msg::VersionKey{.model = std::format("m{}", random() % 3), .version = 1};
        asked[id] = {.version = version, .uploaded = version && chance(60)};
        look();
        router.submit(RequestId{id},
                      {.version = version,
                       .uploaded = asked[id].uploaded,
                       .rows = static_cast<std::int64_t>(1 + random() % 4),
                       .deadline = now + std::chrono::milliseconds(random() % 500)},
                      now, out);
        for (const auto& action : out) {
          const auto* failed = std::get_if<Failed>(&action);
          if (failed == nullptr || failed->error.code != Code::kOverloaded) continue;
          const auto& own = loads[version].queued;
          const auto longest = std::ranges::max(loads | std::views::values, {}, &InferenceRouter::Load::queued).queued;
          if (failed->request != RequestId{id}) {
            const auto& other = asked[static_cast<std::uint64_t>(failed->request)].version;
            ASSERT_EQ(loads[other].queued, longest) << "one of those who are many made room";
            ASSERT_GT(longest, own + 1);
            ++displaced;
          } else if (own >= 5 && router.queued() < 10) {
            ++held_to_its_part;
          } else {
            ASSERT_GE(router.queued(), 10U);
            ASSERT_LE(longest, own + 1) << "another had more, and was to make room";
          }
        }
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
        std::set<msg::VersionKey> with_it;
        for (const Running& sent : with_workers) {
          if (sent.peer != peer) continue;
          Asked& of = asked[sent.id];
          ++of.lost;
          if (of.uploaded && outcomes[sent.id] == 0) with_it.insert(*of.version);
        }
        for (const auto& version : with_it) ++losses[version];
        std::erase_if(with_workers, [&](const Running& sent) { return sent.peer == peer; });
        router.on_peer_lost(peer, now, out);
        act();
      }
      if (!running.empty() && chance(60)) {
        const std::size_t which = random() % running.size();
        const Running answer = running[which];
        if (!chance(10)) running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));  // else it comes twice
        std::erase_if(with_workers, [&](const Running& sent) { return sent.attempt == answer.attempt; });
        look();
        if (chance(10)) {
          router.on_error(answer.peer, answer.attempt,
                          {.code = chance(50) ? Code::kUnavailable : Code::kInternal, .message = "", .path = {}}, now,
                          out);
        } else if (const auto id = router.on_answer(answer.peer, answer.attempt, now, out)) {
          ++outcomes[static_cast<std::uint64_t>(*id)];
          --loads[asked[static_cast<std::uint64_t>(*id)].version].outstanding;
          for (const auto& action : out) {
            const auto* sent = std::get_if<SendTo>(&action);
            if (sent == nullptr) continue;
            auto& chosen = loads[asked[static_cast<std::uint64_t>(sent->request)].version];
            for (const auto& [key, load] : loads) {
              ASSERT_TRUE(load.queued == 0 || load.outstanding >= chosen.outstanding);
            }
            --chosen.queued;
            ++chosen.outstanding;
          }
          if (const auto& of = asked[static_cast<std::uint64_t>(*id)]; of.version) answered.insert(*of.version);
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
  EXPECT_GT(displaced, 0);
  EXPECT_GT(held_to_its_part, 0);
}

}  // namespace
}  // namespace slipway::gateway

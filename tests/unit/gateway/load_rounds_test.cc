#include "services/gateway/load_rounds.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
constexpr LoadRounds::TimePoint kRoundStart{};
constexpr LoadRounds::RoundId kRound{7};

struct LoadRoundsTest : testing::Test {
  WorkerTable workers{"r"};
  LoadRounds rounds;

  void join(const Peer& peer, msg::Role role = msg::Role::kInferencer, bool draining = false) {
    ASSERT_TRUE(workers.on_hello(peer, {.release = "r", .role = role, .worker_id = WorkerId("id-" + peer), .host = "h"},
                                 kRoundStart));
    ASSERT_TRUE(workers.on_heartbeat(peer, {.credits = 1, .loaded = {}, .draining = draining}, kRoundStart));
  }
  std::vector<LoadRounds::Question> begin(const std::vector<msg::VersionKey>& versions = {{"m", 1}}) {
    return rounds.begin(kRound, workers, versions, kRoundStart + 5s);
  }
};

TEST_F(LoadRoundsTest, AsksEachInferencerThatStaysForEachVersionAndEndsOnceWithTheLastAnswer) {
  join("a");
  join("b");
  join("leaving", msg::Role::kInferencer, true);
  join("trainer", msg::Role::kTrainer);
  const auto asked = begin({{"m", 1}, {"m", 3}});
  ASSERT_EQ(asked.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_GE(asked[i].correlation, LoadRounds::kFirstCorrelation);
    EXPECT_THAT(rounds.take_ended(), IsEmpty());
    EXPECT_TRUE(rounds.on_answer(asked[i].peer, asked[i].correlation,
                                 i == 2 ? fail(Code::kDataLoss, "damaged") : Result<void>()));
  }
  const auto ended = rounds.take_ended();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].round, kRound);
  ASSERT_EQ(ended[0].outcomes.size(), 4U);
  EXPECT_TRUE(ended[0].outcomes[1].loaded);
  EXPECT_EQ(ended[0].outcomes[2].inferencer, "id-b on h");
  EXPECT_EQ(ended[0].outcomes[2].version, (msg::VersionKey{"m", 1}));
  EXPECT_EQ(ended[0].outcomes[2].loaded.error().code, Code::kDataLoss);
  EXPECT_THAT(rounds.take_ended(), IsEmpty());
}

TEST_F(LoadRoundsTest, WithoutAnInferencerItEndsAtOnceWithNothing) {
  EXPECT_THAT(begin(), IsEmpty());
  const auto ended = rounds.take_ended();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_THAT(ended[0].outcomes, IsEmpty());
}

TEST_F(LoadRoundsTest, AnotherPeersOrALateAnswerIsNone) {
  join("a");
  const auto asked = begin();
  EXPECT_FALSE(rounds.on_answer("b", asked[0].correlation, {}));
  EXPECT_FALSE(rounds.on_answer("a", asked[0].correlation + 1, {}));
  EXPECT_TRUE(rounds.on_answer("a", asked[0].correlation, {}));
  EXPECT_FALSE(rounds.on_answer("a", asked[0].correlation, {}));
}

TEST_F(LoadRoundsTest, ALostInferencerAndTheDeadlineEndIt) {
  join("a");
  join("b");
  const auto asked = begin();
  rounds.on_peer_lost("b");
  rounds.on_tick(kRoundStart + 5s - 1ms);
  EXPECT_THAT(rounds.take_ended(), IsEmpty());
  rounds.on_tick(kRoundStart + 5s);
  const auto ended = rounds.take_ended();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].outcomes.at(0).loaded.error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(ended[0].outcomes.at(1).loaded.error().code, Code::kUnavailable);
  EXPECT_FALSE(rounds.on_answer("a", asked[0].correlation, {}));
}

}  // namespace
}  // namespace slipway::gateway

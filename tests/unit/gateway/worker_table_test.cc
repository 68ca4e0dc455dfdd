#include "services/gateway/worker_table.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
constexpr WorkerTable::TimePoint kHelloTime{};
const msg::VersionKey kVersion{.model = "m", .version = 1};

MATCHER_P(Was, peer, "") { return arg.peer == peer; }

msg::Hello hello(const char* id, msg::Role role = msg::Role::kInferencer, const char* release = "r1") {
  return {.release = release, .role = role, .worker_id = WorkerId(id), .host = "h"};
}

TEST(WorkerTable, RefusesAnotherReleaseAndNamesBoth) {
  WorkerTable table("r1");
  const auto refused = table.on_hello("p", hello("w", msg::Role::kTrainer, "r2"), kHelloTime);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kConflict);
  EXPECT_THAT(refused.error().message, testing::AllOf(testing::HasSubstr("'r1'"), testing::HasSubstr("'r2'")));
  EXPECT_EQ(table.find("p"), nullptr);
}

TEST(WorkerTable, DoesNotKnowAHeartbeatBeforeItsHello) {
  WorkerTable table("r1");
  EXPECT_FALSE(table.on_heartbeat("p", {.credits = 1, .loaded = {}, .draining = false}, kHelloTime));
}

TEST(WorkerTable, AHelloAgainReplacesNobody) {
  WorkerTable table("r1");
  ASSERT_TRUE(table.on_hello("p", hello("w"), kHelloTime));
  EXPECT_TRUE(table.on_hello("p", hello("w"), kHelloTime)->empty());
}

TEST(WorkerTable, ARestartReplacesTheOldPeer) {
  WorkerTable table("r1");
  ASSERT_TRUE(table.on_hello("p", hello("w"), kHelloTime));
  EXPECT_THAT(*table.on_hello("q", hello("w"), kHelloTime), testing::ElementsAre(Was("p")));
  EXPECT_THAT(*table.on_hello("q", hello("v"), kHelloTime), testing::ElementsAre(Was("q")));
  EXPECT_EQ(table.count(msg::Role::kInferencer), 1);
}

TEST(WorkerTable, PrefersTheLoadedThenTheLeastBusy) {
  WorkerTable table("r1");
  for (const char* peer : {"a", "b", "c"}) ASSERT_TRUE(table.on_hello(peer, hello(peer), kHelloTime));
  EXPECT_EQ(table.pick_inferencer(kVersion), std::nullopt) << "no credit yet";
  EXPECT_TRUE(table.on_heartbeat("a", {.credits = 2, .loaded = {}, .draining = false}, kHelloTime));
  EXPECT_EQ(table.pick_inferencer(kVersion), "a");
  EXPECT_TRUE(table.on_heartbeat("b", {.credits = 2, .loaded = {kVersion}, .draining = false}, kHelloTime));
  EXPECT_TRUE(table.on_heartbeat("c", {.credits = 2, .loaded = {kVersion}, .draining = false}, kHelloTime));
  table.take("b", 10);
  EXPECT_EQ(table.pick_inferencer(kVersion), "c");
  table.take("c", 5);
  EXPECT_EQ(table.pick_inferencer(kVersion), "c");
  table.take("c", 5);
  EXPECT_EQ(table.pick_inferencer(kVersion), "b") << "c has no credit left";
  EXPECT_EQ(table.pick_inferencer(kVersion, "b"), "a") << "b is to be avoided";
  EXPECT_TRUE(table.on_heartbeat("b", {.credits = 2, .loaded = {kVersion}, .draining = true}, kHelloTime));
  EXPECT_EQ(table.pick_inferencer(kVersion), "a") << "b drains";
}

TEST(WorkerTable, RemovesTheSilentAfterFiveSeconds) {
  WorkerTable table("r1");
  ASSERT_TRUE(table.on_hello("p", hello("w"), kHelloTime));
  EXPECT_TRUE(table.remove_silent(kHelloTime + 4999ms).empty());
  EXPECT_THAT(table.remove_silent(kHelloTime + 5s), testing::ElementsAre(Was("p")));
  EXPECT_EQ(table.find("p"), nullptr);
}

TEST(WorkerTable, TellsWhoHasLeftFromWhoIsLost) {
  WorkerTable table("r1");
  for (const char* peer : {"serves", "drains", "owes"}) {
    ASSERT_TRUE(table.on_hello(peer, hello(peer), kHelloTime));
    ASSERT_TRUE(table.on_heartbeat(peer, {.credits = 1, .loaded = {}, .draining = *peer != 's'}, kHelloTime));
  }
  table.take("owes", 1);
  EXPECT_FALSE(table.remove("serves")->worker.has_left());
  EXPECT_TRUE(table.remove("drains")->worker.has_left());
  EXPECT_FALSE(table.remove("owes")->worker.has_left());
  EXPECT_FALSE(table.remove("owes")) << "already removed";
}

TEST(WorkerTable, ATrainerIsNoInferencer) {
  WorkerTable table("r1");
  ASSERT_TRUE(table.on_hello("t", hello("t", msg::Role::kTrainer), kHelloTime));
  EXPECT_TRUE(table.on_heartbeat("t", {.credits = 1, .loaded = {}, .draining = false}, kHelloTime));
  EXPECT_EQ(table.pick_inferencer(std::nullopt), std::nullopt);
  EXPECT_THAT(table.idle_trainers(), testing::ElementsAre("t"));
  table.use_up("t");
  EXPECT_THAT(table.idle_trainers(), testing::IsEmpty());
}

}  // namespace
}  // namespace slipway::gateway

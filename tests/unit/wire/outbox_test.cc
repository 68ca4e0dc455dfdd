#include "lib/wire/outbox.h"

#include <gtest/gtest.h>

#include "lib/wire/codec.h"

namespace slipway {
namespace {

using namespace std::chrono_literals;
using Sent = Outbox::Sent;
constexpr Outbox::TimePoint kStart{};

// Stands for a socket: what it does next with each peer's messages, and what it was given.
class OutboxTest : public testing::Test {
 protected:
  OutboxTest()
      : box(
            {.max_messages = 3, .max_bytes = 100},
            [this](Outgoing& message) {
              const Sent outcome = next.contains(message.peer) ? next[message.peer] : Sent::kYes;
              ++tried;
              if (outcome == Sent::kNoRoom) kept = message.envelope.data();
              if (outcome == Sent::kYes) {
                stamp(message);
                const auto envelope = decode(message.envelope.bytes()).value();
                sent.push_back(message.peer + std::to_string(envelope.correlation));
                left_ms = envelope.deadline_ms;
              }
              return outcome;
            },
            [this](const std::string& peer) { gone.push_back(peer); }) {}

  static Outgoing message(const std::string& peer, std::uint64_t number, std::size_t bytes = 1,
                          std::optional<std::chrono::milliseconds> lasts = {}) {
    const auto deadline_ms = static_cast<std::uint32_t>(lasts.value_or(std::chrono::milliseconds(0)).count());
    Outgoing out{.peer = peer,
                 .correlation = number,
                 .envelope = encode({.correlation = number, .deadline_ms = deadline_ms, .request_id = {}, .body = {}}),
                 .pieces = {},
                 .deadline_ms = deadline_ms,
                 .bytes = bytes};
    if (lasts) out.expires = kStart + *lasts;
    return out;
  }
  Code code_of(Outgoing out, Outbox::TimePoint now = kStart) {
    const auto result = box.deliver(std::move(out), now);
    return result ? Code{} : result.error().code;
  }

  std::map<std::string, Sent> next;
  std::vector<std::string> sent;
  std::vector<std::string> gone;
  int tried = 0;
  std::uint32_t left_ms = 0;
  const std::byte* kept = nullptr;  // the envelope that found no room last
  Outbox box;
};

constexpr Code kFine{};

TEST_F(OutboxTest, SendsAtOnceWhereThereIsRoom) {
  EXPECT_EQ(code_of(message("a", 1)), kFine);
  EXPECT_EQ(sent, (std::vector<std::string>{"a1"}));
  EXPECT_TRUE(box.empty());
}

TEST_F(OutboxTest, SaysThatAPeerHasGoneAndKeepsNothingForIt) {
  next["a"] = Sent::kGone;
  EXPECT_EQ(code_of(message("a", 1)), Code::kUnavailable);
  EXPECT_TRUE(box.empty());
  EXPECT_TRUE(gone.empty()) << "the sender knows it from the result";
}

TEST_F(OutboxTest, KeepsTheOrderOfAPeerAndHoldsUpNoOther) {
  next["a"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(message("a", 1)), kFine);
  next["a"] = Sent::kYes;  // there is room again, but a1 is first
  EXPECT_EQ(code_of(message("a", 2)), kFine);
  EXPECT_EQ(code_of(message("b", 3)), kFine);
  EXPECT_EQ(sent, (std::vector<std::string>{"b3"}));
  EXPECT_TRUE(box.waits_for("a"));
  EXPECT_FALSE(box.waits_for("b"));
  box.flush(kStart);
  EXPECT_EQ(sent, (std::vector<std::string>{"b3", "a1", "a2"}));
  EXPECT_TRUE(box.empty());
}

TEST_F(OutboxTest, TriesOnlyTheFirstMessageOfAPeerWithoutRoom) {
  next["a"] = Sent::kNoRoom;
  for (std::uint64_t i = 1; i <= 3; ++i) EXPECT_EQ(code_of(message("a", i)), kFine);
  tried = 0;
  box.flush(kStart);
  EXPECT_EQ(tried, 1);
}

TEST_F(OutboxTest, RefusesWhatIsOverItsLimitsForOnePeerAlone) {
  next["a"] = next["b"] = Sent::kNoRoom;
  for (std::uint64_t i = 1; i <= 3; ++i) EXPECT_EQ(code_of(message("a", i)), kFine);
  EXPECT_EQ(code_of(message("a", 4)), Code::kOverloaded);
  EXPECT_EQ(code_of(message("b", 1, 99)), kFine);
  EXPECT_EQ(code_of(message("b", 2, 1'000)), kFine) << "99 bytes wait: one message more may be of any size";
  EXPECT_EQ(code_of(message("b", 3)), Code::kOverloaded);
  next.clear();
  box.flush(kStart);
  EXPECT_EQ(sent.size(), 5U);
  next["b"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(message("b", 4, 100)), kFine) << "what was sent does not count any more";
}

TEST_F(OutboxTest, DropsWhatNobodyWaitsForAnyMore) {
  EXPECT_EQ(code_of(message("a", 1, 1, 5ms), kStart + 5ms), Code::kDeadlineExceeded);
  EXPECT_EQ(tried, 0);
  next["a"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(message("a", 2, 1, 5ms)), kFine);
  EXPECT_EQ(code_of(message("a", 3, 1, 50ms)), kFine);
  next["a"] = Sent::kYes;
  box.flush(kStart + 5ms);
  EXPECT_EQ(sent, (std::vector<std::string>{"a3"}));
  EXPECT_TRUE(gone.empty());
}

TEST_F(OutboxTest, CountsADeadlineDownWhileAMessageWaits) {
  next["a"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(message("a", 1, 1, 50ms)), kFine);
  next["a"] = Sent::kYes;
  box.flush(kStart + 20500us);
  EXPECT_EQ(left_ms, 30U);  // rounded up: 0 would mean none
}

// An envelope may have 16 MiB, and a peer without room is tried every other millisecond.
TEST_F(OutboxTest, CopiesNoEnvelopeForATryThatFindsNoRoom) {
  Outgoing waiting = message("a", 1, 1, 50ms);
  const std::byte* const as_given = waiting.envelope.data();
  next["a"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(std::move(waiting), kStart + 2ms), kFine);
  for (const auto later : {4ms, 6ms, 8ms}) {
    box.flush(kStart + later);
    EXPECT_EQ(kept, as_given);
  }
  EXPECT_EQ(tried, 4);
  next["a"] = Sent::kYes;
  box.flush(kStart + 10ms);
  EXPECT_EQ(left_ms, 40U);
}

TEST_F(OutboxTest, TellsOfEachWaitingMessageThatItsPeerHasGone) {
  next["a"] = Sent::kNoRoom;
  EXPECT_EQ(code_of(message("a", 1)), kFine);
  EXPECT_EQ(code_of(message("a", 2)), kFine);
  next["a"] = Sent::kGone;
  box.flush(kStart);
  EXPECT_EQ(gone, (std::vector<std::string>{"a", "a"}));
  EXPECT_TRUE(box.empty());
}

}  // namespace
}  // namespace slipway

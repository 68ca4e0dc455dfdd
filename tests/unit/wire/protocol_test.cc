#include "lib/wire/protocol.h"

#include <gmock/gmock.h>

#include <condition_variable>
#include <deque>
#include <mutex>

#include "lib/wire/caller.h"
#include "lib/wire/worker_link.h"

namespace slipway {
namespace {

using namespace std::chrono_literals;
using msg::ProtocolRange;
using testing::HasSubstr;

TEST(CommonProtocol, IsTheNewestThatBothSpeak) {
  struct Case {
    ProtocolRange ours;
    ProtocolRange theirs;
    std::optional<std::uint16_t> wanted;
  };
  for (const Case& one :
       {Case{{1, 1}, {1, 1}, 1}, Case{{1, 2}, {1, 1}, 1}, Case{{1, 2}, {1, 2}, 2}, Case{{1, 2}, {2, 3}, 2},
        Case{{1, 5}, {2, 3}, 3}, Case{{1, 1}, {2, 3}, std::nullopt}, Case{{4, 5}, {1, 3}, std::nullopt},
        Case{{1, 1}, {0, 0}, std::nullopt}, Case{{1, 65535}, {65535, 65535}, 65535},
        Case{{1, 3}, {3, 1}, std::nullopt}}) {  // of a peer that makes no sense
    EXPECT_EQ(common_protocol(one.ours, one.theirs), one.wanted) << one.ours.newest << " " << one.theirs.newest;
    EXPECT_EQ(common_protocol(one.theirs, one.ours), one.wanted);
  }
}

TEST(PeerProtocols, AreTheOldestUntilThePeerIsHeardAndAgainOnceItHasGone) {
  PeerProtocols peers({2, 4});
  EXPECT_EQ(peers.write_in("a"), 2);
  peers.heard("a", {1, 3});
  peers.heard("b", {4, 9});
  peers.heard("c", {7, 9});  // nothing in common: the oldest is what it may at least read the error of
  EXPECT_EQ(peers.write_in("a"), 3);
  EXPECT_EQ(peers.write_in("b"), 4);
  EXPECT_EQ(peers.write_in("c"), 2);
  peers.heard("b", {1, 2});
  EXPECT_EQ(peers.write_in("b"), 2);
  peers.forget("a");
  EXPECT_EQ(peers.write_in("a"), 2);
}

TEST(PeerProtocols, OfStrangersThatComeAndGoDoNotPileUp) {
  PeerProtocols peers({1, 2}, 3);
  for (int i = 0; i < 100; ++i) peers.heard(std::to_string(i), {1, 2});
  int kept = 0;
  for (int i = 0; i < 100; ++i) kept += peers.write_in(std::to_string(i)) == 2 ? 1 : 0;
  EXPECT_LE(kept, 3);
  EXPECT_EQ(peers.write_in("99"), 2);
}

Frame written_in(std::uint16_t protocol, msg::ProtocolRange range, msg::Body body) {
  return encode(
      {.correlation = 7, .request_id = {}, .body = std::move(body), .protocol = protocol, .protocols = range});
}

TEST(Protocol, OfAMessageIsReadWithinTheRangeOnly) {
  const Frame frame = written_in(3, {2, 4}, msg::GetModel{"m"});
  const auto read = decode(frame.bytes(), {3, 3});
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->protocol, 3);
  EXPECT_EQ(read->protocols, (ProtocolRange{2, 4}));

  const auto refused = decode(frame.bytes(), {1, 2});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr("in protocol 3, from one that speaks protocols 2 to 4"));
  EXPECT_THAT(refused.error().message, HasSubstr("by one that speaks protocols 1 to 2"));
  EXPECT_THAT(decode(frame.bytes(), {9, 9}).error().message, HasSubstr("none in common"));

  const auto head = head_of(frame.bytes());
  ASSERT_TRUE(head);
  EXPECT_EQ(head->correlation, 7U);
  EXPECT_EQ(head->protocol, 3);
  EXPECT_EQ(head->protocols, (ProtocolRange{2, 4}));
  EXPECT_FALSE(head_of(frame.bytes().first(frame.size() - 8)));
}

TEST(Protocol, OfErrorsDoesNotMatter) {
  for (const msg::Body& body :
       {msg::Body(msg::Error{.code = 10, .message = "no", .path = {}}), msg::Body(msg::OtherProtocol{})}) {
    const auto read = decode(written_in(9, {9, 9}, body).bytes(), {1, 1});
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->body.index(), body.index());
  }
}

TEST(Protocol, OfAFirstReleaseIsWhatItsMessagesAreWrittenIn) {
  for (const ProtocolRange unsaid : {ProtocolRange{0, 0}, ProtocolRange{5, 2}, ProtocolRange{2, 3}}) {
    const auto read = decode(written_in(1, unsaid, msg::Ok{}).bytes());
    ASSERT_TRUE(read);
    EXPECT_EQ(read->protocols, (ProtocolRange{1, 1}));
  }
}

Bus::Limits speaking(ProtocolRange range) {
  Bus::Limits limits;
  limits.protocols = range;
  return limits;
}

// A server of another release: answers each question with the protocol that it came in as the version of a model.
class Server {
 public:
  explicit Server(ProtocolRange range) : bus_(speaking(range)) {
    auto bound = bus_.bind_router("127.0.0.1:0", [this](const Incoming& incoming) {
      ++heard_;
      const auto& envelope = incoming.message.envelope;
      (void)bus_.answer(incoming.socket, incoming.peer,
                        {.envelope = {.correlation = envelope.correlation,
                                      .request_id = {},
                                      .body = msg::Models{{{.name = "m", .latest = envelope.protocol, .aliases = {}}}}},
                         .payload = {}});
    });
    EXPECT_TRUE(bound);
    address_ = std::format("127.0.0.1:{}", bus_.port(*bound));
  }
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] int heard() const { return heard_; }

 private:
  std::atomic<int> heard_{0};
  std::string address_;
  Bus bus_;
};

TEST(Protocol, OfQuestionsIsTheNewestCommonOneWhoeverIsLater) {
  struct Case {
    ProtocolRange asker;
    ProtocolRange server;
    std::uint16_t first;
    std::uint16_t then;
  };
  for (const Case& one : {Case{{1, 1}, {1, 1}, 1, 1}, Case{{1, 2}, {1, 1}, 1, 1}, Case{{1, 1}, {1, 2}, 1, 1},
                          Case{{1, 3}, {1, 2}, 1, 2},  // the first goes in the oldest: nothing is known then
                          Case{{2, 3}, {1, 2}, 2, 2}, Case{{1, 2}, {2, 3}, 2, 2},  // not read at first, and asked again
                          Case{{1, 4}, {3, 9}, 4, 4}}) {
    SCOPED_TRACE(
        std::format("{}-{} asks {}-{}", one.asker.oldest, one.asker.newest, one.server.oldest, one.server.newest));
    const Server server(one.server);
    Bus bus(speaking(one.asker));
    Caller caller(bus, server.address());
    for (const std::uint16_t wanted : {one.first, one.then, one.then}) {
      const auto answer =
          Caller::as<msg::Models>(caller.call_and_wait(msg::GetModel{"m"}, {Frame::copy(std::string_view("payload"))},
                                                       {.deadline = 20s, .repeat_after = {}, .request_id = {}}));
      ASSERT_TRUE(answer) << answer.error().message;
      EXPECT_EQ(answer->items.at(0).latest, wanted);
    }
    EXPECT_EQ(server.heard(), 3) << "a question that was not read is not handed over";
  }
}

TEST(Protocol, WithoutACommonOneTheAskerHearsBothRanges) {
  struct Case {
    ProtocolRange asker;
    ProtocolRange server;
  };
  for (const Case& one : {Case{{1, 2}, {3, 4}}, Case{{3, 4}, {1, 2}}}) {
    const Server server(one.server);
    Bus bus(speaking(one.asker));
    Caller caller(bus, server.address());
    for (int i = 0; i < 2; ++i) {
      const auto answer =
          caller.call_and_wait(msg::GetModel{"m"}, {}, {.deadline = 20s, .repeat_after = 100ms, .request_id = {}});
      ASSERT_FALSE(answer);
      EXPECT_EQ(answer.error().code, Code::kUnsupported);
      EXPECT_THAT(answer.error().message, HasSubstr("protocols 1 to 2"));
      EXPECT_THAT(answer.error().message, HasSubstr("protocols 3 to 4"));
    }
    EXPECT_EQ(server.heard(), 0);
  }
}

// A gateway of another release, as far as a worker sees it.
class GatewayThatSpeaks {
 public:
  explicit GatewayThatSpeaks(ProtocolRange range) : bus_(speaking(range)) {
    auto bound = bus_.bind_router("127.0.0.1:0", [this](const Incoming& incoming) {
      const auto& envelope = incoming.message.envelope;
      if (std::holds_alternative<msg::Hello>(envelope.body))
        (void)bus_.answer(incoming.socket, incoming.peer,
                          {.envelope = {.request_id = {}, .body = msg::Welcome{"g"}}, .payload = {}});
      if (!std::holds_alternative<msg::Heartbeat>(envelope.body)) return;
      const std::lock_guard lock(mutex_);
      beat_in_ = envelope.protocol;
      changed_.notify_all();
    });
    EXPECT_TRUE(bound);
    address_ = std::format("127.0.0.1:{}", bus_.port(*bound));
  }
  [[nodiscard]] const std::string& address() const { return address_; }
  // The protocol of the worker's heartbeats, waited for.
  [[nodiscard]] std::uint16_t beat_in(std::uint16_t wanted) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, 20s, [&] { return beat_in_ == wanted; });
    return beat_in_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint16_t beat_in_ = 0;
  std::string address_;
  Bus bus_;
};

TEST(Protocol, OfAWorkerIsAnotherOneWithEachGateway) {
  GatewayThatSpeaks older({1, 1});
  GatewayThatSpeaks same({1, 2});
  GatewayThatSpeaks later({2, 3});
  GatewayThatSpeaks foreign({8, 9});
  Bus bus(speaking({1, 2}));
  const WorkerLink link(
      bus, {.release = "r", .role = msg::Role::kInferencer, .worker_id = WorkerId("w"), .host = "h"},
      {older.address(), same.address(), later.address(), foreign.address()},
      [] { return msg::Heartbeat{.credits = 3, .loaded = {}, .draining = false}; }, [](const Incoming&) {});
  EXPECT_EQ(older.beat_in(1), 1);
  EXPECT_EQ(same.beat_in(2), 2);
  EXPECT_EQ(later.beat_in(2), 2);
  EXPECT_EQ(link.welcomed(), 3);
}

}  // namespace
}  // namespace slipway

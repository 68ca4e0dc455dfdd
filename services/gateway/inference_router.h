// Which inferencer answers which request: queues, credits, deadlines, one retry. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "lib/base/error.h"
#include "services/gateway/worker_table.h"

namespace slipway::gateway {

enum class RequestId : std::uint64_t {};

// What the router wants done; `attempt` is the correlation on the wire, another one for every sending.
struct SendTo {
  Peer peer;
  std::uint64_t attempt;
  RequestId request;
  std::chrono::milliseconds left;  // to the deadline
  bool alone = false;              // an inferencer was lost with it, and it may be the cause: in no batch with others
};
struct CancelAt {
  Peer peer;
  std::uint64_t attempt;
};
struct Failed {
  RequestId request;
  Error error;
};
using RouterAction = std::variant<SendTo, CancelAt, Failed>;

// What the router must know of a request.
struct Routed {
  std::optional<msg::VersionKey> version;  // what the inferencer should have loaded; none: any will do
  bool uploaded = false;                   // the version's file was made elsewhere: running it may end the inferencer
  std::int64_t rows = 1;
  std::chrono::steady_clock::time_point deadline{};
};

// Every request submitted gets exactly one of: on_answer() says that it is answered, a Failed, or cancel().
// Each version's requests wait in a line of their own (so do those of none), first come, first served. Credit that
// comes goes to the line with the fewest requests at inferencers, and of several to the one served longest ago. Life:
// of the table. Threads: not thread-safe, owned by the bus thread.
class InferenceRouter {
 public:
  using TimePoint = WorkerTable::TimePoint;
  using Actions = std::vector<RouterAction>;
  // After the start, and after the last inferencer was lost, requests wait this long for one to dial.
  static constexpr std::chrono::milliseconds kPatience{2000};
  static constexpr std::size_t kMostProven = 10'000;  // uploaded versions remembered to have answered
  static constexpr std::chrono::minutes kSuspect{
      5};                                        // an uploaded version is one, after an inferencer was lost with it
  static constexpr std::size_t kKeptLines = 64;  // lines that are not made anew for a version's next request

  InferenceRouter(WorkerTable& workers, std::size_t max_queued, TimePoint start)
      : workers_(workers), max_queued_(max_queued), patient_until_(start + kPatience) {}

  // Fails at once with kOverloaded (no place to wait) or kUnavailable (no inferencer is connected, nor lately was).
  // While others' requests are here a version has at most half of the places (rounded up). When all are taken the last
  // in the longest line fails with kOverloaded for one whose line is shorter, by more than one.
  void submit(RequestId id, Routed request, TimePoint now, Actions& out);

  // An answer came. Returns the request that it answers; nullopt: nobody waits for it any more.
  [[nodiscard]] std::optional<RequestId> on_answer(const Peer& peer, std::uint64_t attempt, TimePoint now,
                                                   Actions& out);

  // An error came. kUnavailable and kOverloaded are tried once more elsewhere, others are the request's outcome.
  void on_error(const Peer& peer, std::uint64_t attempt, Error error, TimePoint now, Actions& out);

  // The message could not be sent.
  void on_send_failed(std::uint64_t attempt, TimePoint now, Actions& out);

  // The peer is gone from the table, without a word, with all that it had. What cannot have been the cause is tried
  // once more elsewhere: requests of versions made here, and, alone, of uploaded ones that have answered here before
  // and with which no other inferencer was lost lately. The others fail with kUnavailable: what ended this inferencer
  // could end the next.
  void on_peer_lost(const Peer& peer, TimePoint now, Actions& out);

  // Nobody waits for `id` any more: no outcome.
  void cancel(RequestId id, TimePoint now, Actions& out);

  // Credit may have come.
  void pump(TimePoint now, Actions& out);

  // Fails what is past its deadline.
  void on_tick(TimePoint now, Actions& out);

  // Requests of one version, or of none, that wait and that are at inferencers.
  struct Load {
    std::size_t queued = 0;
    std::size_t outstanding = 0;
  };
  [[nodiscard]] Load load(const std::optional<msg::VersionKey>& version) const;

  [[nodiscard]] std::size_t queued() const { return queued_; }
  [[nodiscard]] std::size_t open() const { return requests_.size(); }
  [[nodiscard]] std::uint64_t retries() const { return retries_; }

 private:
  struct Line {
    std::list<RequestId> waiting;
    std::size_t outstanding = 0;
    std::size_t open = 0;    // requests that refer to the line
    std::uint64_t turn = 0;  // when it was last served, or made if it never was: no two lines' are the same
  };
  using Lines = std::map<std::optional<msg::VersionKey>, Line>;
  struct Request {
    Routed routed;
    Lines::iterator line{};
    std::uint64_t attempt = 0;  // 0: not sent
    Peer peer{};
    bool retried = false;
    bool alone = false;
    std::optional<std::list<RequestId>::iterator> place{};  // in the line, while queued
  };
  using At = std::map<RequestId, Request>::iterator;
  // Lines in which somebody waits, by a count and their turn.
  using Order = std::map<std::pair<std::size_t, std::uint64_t>, std::reference_wrapper<Line>>;

  bool try_send(At request, TimePoint now, Actions& out);
  void retry_or_fail(At request, Error error, TimePoint now, Actions& out);
  void take_back(At request);
  void finish(At request);
  void forget(At request);
  [[nodiscard]] std::optional<Error> make_room(const Line& line, Actions& out);
  template <class Change>
  void change(Line& line, Change apply);
  void enqueue(At request, bool in_front);
  void fail_waiting(Actions& out);
  void fail_suspected(const msg::VersionKey& version, Actions& out);
  void note_proven(const Request& request);
  [[nodiscard]] bool trusted(const Routed& routed) const;

  WorkerTable& workers_;
  const std::size_t max_queued_;
  std::map<RequestId, Request> requests_;
  std::map<std::uint64_t, At> attempts_;
  Lines lines_;
  std::size_t busy_lines_ = 0;  // those with an open request
  std::size_t queued_ = 0;      // over all lines
  Order next_;                  // by requests at inferencers: the first is served next
  Order lengths_;               // by requests waiting
  std::uint64_t next_line_ = 0;
  std::uint64_t next_turn_ = std::uint64_t{1} << 63U;  // after every line's that was never served
  std::set<std::pair<TimePoint, RequestId>> deadlines_;
  std::set<msg::VersionKey> proven_;       // uploaded versions that have answered
  std::deque<msg::VersionKey> proven_in_;  // the same, oldest first
  // Uploaded versions that an inferencer had when it was lost, and when the last one was; older ones than kSuspect are
  // forgotten at the next loss.
  std::map<msg::VersionKey, TimePoint> suspects_;
  TimePoint patient_until_;
  std::uint64_t next_attempt_ = 1;
  std::uint64_t retries_ = 0;
};

}  // namespace slipway::gateway

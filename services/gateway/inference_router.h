// Which inferencer answers which request: queue, credits, deadlines, one retry. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <string>
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
  bool alone = false;              // an inferencer was lost with it: in no batch with others
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
// Life: of the table. Threads: not thread-safe, owned by the bus thread.
class InferenceRouter {
 public:
  using TimePoint = WorkerTable::TimePoint;
  using Actions = std::vector<RouterAction>;
  // After the start, and after the last inferencer was lost, requests wait this long for one to dial.
  static constexpr std::chrono::milliseconds kPatience{2000};
  static constexpr std::size_t kMostProven = 10'000;  // uploaded versions remembered to have answered

  InferenceRouter(WorkerTable& workers, std::size_t max_queued, TimePoint start)
      : workers_(workers), max_queued_(max_queued), patient_until_(start + kPatience) {}

  // Fails at once with kOverloaded (the queue is full) or kUnavailable (no inferencer is connected, nor lately was).
  void submit(RequestId id, Routed request, TimePoint now, Actions& out);

  // An answer came. Returns the request that it answers; nullopt: nobody waits for it any more.
  [[nodiscard]] std::optional<RequestId> on_answer(const Peer& peer, std::uint64_t attempt, TimePoint now,
                                                   Actions& out);

  // An error came. kUnavailable and kOverloaded are tried once more elsewhere, others are the request's outcome.
  void on_error(const Peer& peer, std::uint64_t attempt, Error error, TimePoint now, Actions& out);

  // The message could not be sent.
  void on_send_failed(std::uint64_t attempt, TimePoint now, Actions& out);

  // The peer is gone from the table, without a word, with all that it had. What cannot have been the cause is tried
  // once more elsewhere, alone: requests of versions made here, and of uploaded ones that have answered here before.
  // The others fail with kUnavailable: what ended this inferencer could end the next.
  void on_peer_lost(const Peer& peer, TimePoint now, Actions& out);

  // Nobody waits for `id` any more: no outcome.
  void cancel(RequestId id, TimePoint now, Actions& out);

  // Credit may have come.
  void pump(TimePoint now, Actions& out);

  // Fails what is past its deadline.
  void on_tick(TimePoint now, Actions& out);

  [[nodiscard]] std::size_t queued() const { return queue_.size(); }
  [[nodiscard]] std::size_t open() const { return requests_.size(); }
  [[nodiscard]] std::uint64_t retries() const { return retries_; }

 private:
  struct Request {
    Routed routed;
    std::uint64_t attempt = 0;  // 0: queued
    Peer peer{};
    bool retried = false;
    bool alone = false;
    std::list<RequestId>::iterator place{};  // in queue_, while queued
  };
  using At = std::map<RequestId, Request>::iterator;

  bool try_send(At request, TimePoint now, Actions& out);
  void retry_or_fail(At request, Error error, TimePoint now, Actions& out);
  void take_back(At request);
  void finish(At request);
  void fail_waiting(Actions& out);
  void note_proven(const Request& request);
  [[nodiscard]] bool trusted(const Routed& routed) const;

  WorkerTable& workers_;
  const std::size_t max_queued_;
  std::map<RequestId, Request> requests_;
  std::map<std::uint64_t, RequestId> attempts_;
  std::list<RequestId> queue_;
  std::set<std::pair<TimePoint, RequestId>> deadlines_;
  std::set<msg::VersionKey> proven_;       // uploaded versions that have answered
  std::deque<msg::VersionKey> proven_in_;  // the same, oldest first
  TimePoint patient_until_;
  std::uint64_t next_attempt_ = 1;
  std::uint64_t retries_ = 0;
};

}  // namespace slipway::gateway

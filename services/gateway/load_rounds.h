// Who has answered that it has loaded what every inferencer was asked to load. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "services/gateway/worker_table.h"

namespace slipway::gateway {

// Threads: not thread-safe, owned by the bus thread.
class LoadRounds {
 public:
  using TimePoint = WorkerTable::TimePoint;
  enum class RoundId : std::uint64_t {};

  // Correlations of these questions, so that they are no attempt's of the InferenceRouter.
  static constexpr std::uint64_t kFirstCorrelation = std::uint64_t{1} << 63U;

  struct Question {
    Peer peer;
    std::uint64_t correlation;
    msg::VersionKey version;
  };
  struct Outcome {
    std::string inferencer;  // its id and host, for people
    msg::VersionKey version;
    Result<void> loaded;
  };
  struct Ended {
    RoundId round;
    std::vector<Outcome> outcomes;  // by inferencer, then version; none: there was no inferencer
  };

  // What to ask: each of `versions` of each inferencer that does not drain. Every round ends once, with take_ended().
  [[nodiscard]] std::vector<Question> begin(RoundId round, const WorkerTable& workers,
                                            const std::vector<msg::VersionKey>& versions, TimePoint deadline);

  // False: no question of a round, or not asked of this peer.
  bool on_answer(const Peer& peer, std::uint64_t correlation, Result<void> loaded);
  // What it was asked fails with kUnavailable.
  void on_peer_lost(const Peer& peer);
  // What is past its deadline fails with kDeadlineExceeded.
  void on_tick(TimePoint now);

  [[nodiscard]] std::vector<Ended> take_ended();

 private:
  struct Open {
    RoundId round;
    Peer peer;
    std::size_t place;  // among the round's outcomes
  };
  struct Round {
    std::vector<Outcome> outcomes;
    std::size_t open = 0;
    TimePoint deadline{};
  };
  using At = std::map<std::uint64_t, Open>::iterator;

  At settle(At question, Result<void> loaded);

  std::map<RoundId, Round> rounds_;
  std::map<std::uint64_t, Open> open_;  // by correlation
  std::vector<Ended> ended_;
  std::uint64_t next_correlation_ = kFirstCorrelation;
};

}  // namespace slipway::gateway

// Brings queued jobs and idle trainers together: claim, hand over, or give back. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "schema/messages.h"
#include "services/gateway/worker_table.h"

namespace slipway::gateway {

// What the dispatcher wants done.
struct Claim {  // ask the registry for a job for this trainer, answer with on_claimed()
  std::uint64_t number;
  WorkerId worker;
};
struct HandOver {  // send it to the trainer; answered with on_accepted() or on_refused()
  Peer peer;
  std::uint64_t attempt;
  msg::RunJob run;
};
struct GiveBack {  // tell the registry
  msg::EndAttempt end;
};
using DispatchAction = std::variant<Claim, HandOver, GiveBack>;

// Life: of the table. Threads: not thread-safe, owned by the bus thread.
class JobDispatcher {
 public:
  using TimePoint = WorkerTable::TimePoint;
  using Actions = std::vector<DispatchAction>;
  static constexpr std::chrono::milliseconds kAskEvery{1000};  // without an event: one may have been missed
  static constexpr std::chrono::milliseconds kAcceptWithin{5000};
  static constexpr std::chrono::milliseconds kClaimWithin{5000};  // then the trainer is free for another claim

  explicit JobDispatcher(WorkerTable& workers) : workers_(workers) {}

  // A job is queued, or a trainer may have credit: look now.
  void wake(TimePoint now, Actions& out);

  // The registry's answer to a claim: a job, none (`run` is nullopt), or no answer at all (likewise). A job that comes
  // after kClaimWithin is given back.
  void on_claimed(std::uint64_t number, std::optional<msg::RunJob> run, TimePoint now, Actions& out);

  // The trainer has taken it.
  void on_accepted(const Peer& peer, std::uint64_t attempt, TimePoint now, Actions& out);

  // The trainer has refused it, or could not be sent to.
  void on_refused(const Peer& peer, std::uint64_t attempt, const std::string& why, TimePoint now, Actions& out);

  void on_peer_lost(const Peer& peer, Actions& out);
  void on_tick(TimePoint now, Actions& out);

  // Claims no more: this gateway is stopping.
  void stop() { stopped_ = true; }

 private:
  struct Claiming {
    std::uint64_t number;
    Peer peer;
    TimePoint until{};
  };
  struct Offer {
    Peer peer;
    Lease lease;
    TimePoint until{};
  };
  static DispatchAction give_back(const Lease& lease, const std::string& why);

  WorkerTable& workers_;
  std::optional<Claiming> claiming_;  // one claim at a time keeps the order of the queue
  std::map<std::uint64_t, Offer> offers_;
  std::uint64_t next_claim_ = 1;
  std::uint64_t next_attempt_ = 1ULL << 62;  // apart from the inference router's numbers
  TimePoint asked_{};
  bool stopped_ = false;
};

}  // namespace slipway::gateway

// Which workers there are, what they may be sent and what they have. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"

namespace slipway::gateway {

// A worker's routing id on the bus: another one for every start of its process.
using Peer = std::string;

// Threads: not thread-safe, owned by the bus thread.
class WorkerTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kDeadAfter{5};  // five heartbeats missed

  struct Worker {
    WorkerId id;
    std::string host;
    msg::Role role = msg::Role::kTrainer;
    std::uint32_t credits = 0;      // what it may have outstanding, in all
    std::uint32_t outstanding = 0;  // what it has
    std::int64_t outstanding_rows = 0;
    bool draining = false;
    std::set<msg::VersionKey> loaded;
    TimePoint heard{};
    [[nodiscard]] bool has_credit() const { return !draining && outstanding < credits; }
    // Had said that it goes, and owed nothing: it is not lost.
    [[nodiscard]] bool has_left() const { return draining && outstanding == 0; }
  };
  struct Removed {
    Peer peer;
    Worker worker;
  };

  explicit WorkerTable(std::string release) : release_(std::move(release)) {}

  // Takes a worker in. Returns those it replaces: the same process under another routing id, or another process under
  // the same one; what they had is lost. Errors: kConflict (another release), kUnsupported (a role that this release
  // does not know).
  [[nodiscard]] Result<std::vector<Removed>> on_hello(const Peer& peer, const msg::Hello& hello, TimePoint now);

  // False: unknown, answer Rehello.
  [[nodiscard]] bool on_heartbeat(const Peer& peer, const msg::Heartbeat& heartbeat, TimePoint now);

  // Removes and returns the workers not heard of for kDeadAfter.
  [[nodiscard]] std::vector<Removed> remove_silent(TimePoint now);
  std::optional<Removed> remove(const Peer& peer);

  // Those with something outstanding.
  [[nodiscard]] std::vector<Peer> busy() const;

  // An inferencer with credit: one that has `version` loaded before one that has not, then the fewest outstanding rows.
  // `avoid` is taken only when there is no other.
  [[nodiscard]] std::optional<Peer> pick_inferencer(const std::optional<msg::VersionKey>& version,
                                                    const std::optional<Peer>& avoid = std::nullopt) const;

  // Trainers that run no job and do not drain, by peer.
  [[nodiscard]] std::vector<Peer> idle_trainers() const;

  // One more, one less outstanding at `peer`; unknown peers are ignored.
  void take(const Peer& peer, std::int64_t rows);
  void give_back(const Peer& peer, std::int64_t rows);

  // No more credit until the next heartbeat says otherwise.
  void use_up(const Peer& peer);

  [[nodiscard]] const Worker* find(const Peer& peer) const;
  [[nodiscard]] int count(msg::Role role) const;

  // Inferencers that do not drain, by peer.
  [[nodiscard]] std::vector<Peer> serving_peers() const;

  // Those that have granted credit, whether or not it is spent.
  [[nodiscard]] int serving_inferencers() const;

 private:
  const std::string release_;
  std::map<Peer, Worker> workers_;
};

}  // namespace slipway::gateway

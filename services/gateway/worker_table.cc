#include "services/gateway/worker_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace slipway::gateway {

Result<std::vector<WorkerTable::Removed>> WorkerTable::on_hello(const Peer& peer, const msg::Hello& hello,
                                                                TimePoint now) {
  if (hello.release != release_) {
    return fail(Code::kConflict, std::format("worker {} on {} is of release '{}', this gateway of '{}': refused",
                                             hello.worker_id.text(), hello.host, hello.release, release_));
  }
  if (hello.role != msg::Role::kTrainer && hello.role != msg::Role::kInferencer) {
    return fail(Code::kUnsupported, std::format("worker {} on {} has role {}, which this release does not know",
                                                hello.worker_id.text(), hello.host, std::to_underlying(hello.role)));
  }
  std::vector<Removed> replaced;
  for (auto at = workers_.begin(); at != workers_.end();) {
    const bool same_peer = at->first == peer;
    const bool same_worker = at->second.id == hello.worker_id;
    if (same_peer != same_worker) {
      replaced.push_back({.peer = at->first, .worker = at->second});
      at = workers_.erase(at);
    } else {
      ++at;
    }
  }
  Worker& worker = workers_[peer];
  worker.id = hello.worker_id;
  worker.host = hello.host;
  worker.role = hello.role;
  worker.heard = now;
  return replaced;
}

bool WorkerTable::on_heartbeat(const Peer& peer, const msg::Heartbeat& heartbeat, TimePoint now) {
  const auto found = workers_.find(peer);
  if (found == workers_.end()) return false;
  Worker& worker = found->second;
  worker.heard = now;
  worker.credits = heartbeat.credits;
  worker.draining = heartbeat.draining;
  worker.loaded = {heartbeat.loaded.begin(), heartbeat.loaded.end()};
  return true;
}

std::vector<WorkerTable::Removed> WorkerTable::remove_silent(TimePoint now) {
  std::vector<Removed> silent;
  std::erase_if(workers_, [&](const auto& entry) {
    const bool dead = now - entry.second.heard >= kDeadAfter;
    if (dead) silent.push_back({.peer = entry.first, .worker = entry.second});
    return dead;
  });
  return silent;
}

std::optional<WorkerTable::Removed> WorkerTable::remove(const Peer& peer) {
  auto node = workers_.extract(peer);
  if (!node) return std::nullopt;
  return Removed{.peer = std::move(node.key()), .worker = std::move(node.mapped())};
}

std::vector<Peer> WorkerTable::busy() const {
  std::vector<Peer> peers;
  for (const auto& [peer, worker] : workers_) {
    if (worker.outstanding > 0) peers.push_back(peer);
  }
  return peers;
}

std::optional<Peer> WorkerTable::pick_inferencer(const std::optional<msg::VersionKey>& version,
                                                 const std::optional<Peer>& avoid) const {
  const std::pair<const Peer, Worker>* best = nullptr;
  std::tuple<bool, bool, std::int64_t, std::uint32_t> best_rank;
  for (const auto& entry : workers_) {
    const Worker& worker = entry.second;
    if (worker.role != msg::Role::kInferencer || !worker.has_credit()) continue;
    const std::tuple rank{avoid == entry.first, version && !worker.loaded.contains(*version), worker.outstanding_rows,
                          worker.outstanding};
    if (best == nullptr || rank < best_rank) {
      best = &entry;
      best_rank = rank;
    }
  }
  return best == nullptr ? std::nullopt : std::optional(best->first);
}

std::vector<Peer> WorkerTable::idle_trainers() const {
  std::vector<Peer> idle;
  for (const auto& [peer, worker] : workers_) {
    if (worker.role == msg::Role::kTrainer && worker.has_credit()) idle.push_back(peer);
  }
  return idle;
}

void WorkerTable::take(const Peer& peer, std::int64_t rows) {
  const auto found = workers_.find(peer);
  if (found == workers_.end()) return;
  ++found->second.outstanding;
  found->second.outstanding_rows += rows;
}

void WorkerTable::give_back(const Peer& peer, std::int64_t rows) {
  const auto found = workers_.find(peer);
  if (found == workers_.end() || found->second.outstanding == 0) return;
  --found->second.outstanding;
  found->second.outstanding_rows -= rows;
}

void WorkerTable::use_up(const Peer& peer) {
  const auto found = workers_.find(peer);
  if (found != workers_.end()) found->second.credits = 0;
}

const WorkerTable::Worker* WorkerTable::find(const Peer& peer) const {
  const auto found = workers_.find(peer);
  return found == workers_.end() ? nullptr : &found->second;
}

int WorkerTable::count(msg::Role role) const {
  return static_cast<int>(
      std::ranges::count_if(workers_, [&](const auto& entry) { return entry.second.role == role; }));
}

std::vector<Peer> WorkerTable::serving_peers() const {
  std::vector<Peer> serving;
  for (const auto& [peer, worker] : workers_) {
    if (worker.role == msg::Role::kInferencer && !worker.draining) serving.push_back(peer);
  }
  return serving;
}

int WorkerTable::serving_inferencers() const {
  return static_cast<int>(std::ranges::count_if(workers_, [](const auto& entry) {
    const Worker& worker = entry.second;
    return worker.role == msg::Role::kInferencer && !worker.draining && worker.credits > 0;
  }));
}

}  // namespace slipway::gateway

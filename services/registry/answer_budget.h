// How many bytes of answers may be on their way at once.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/wire/frame.h"

namespace slipway::registry {

// Bytes are taken before an answer is made, and given back when the sockets have let go of it. Peers who do not read
// must not stop the others: what has been on its way for kStale counts for its peer alone, and one answer at a time is
// had by everybody. Threads: thread-safe.
class AnswerBudget : public std::enable_shared_from_this<AnswerBudget> {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kStale{30};

  AnswerBudget(std::size_t max_bytes, std::size_t max_bytes_per_peer)
      : max_bytes_(max_bytes), max_bytes_per_peer_(max_bytes_per_peer) {}

  // Gives back what it holds at its end.
  class Share {
   public:
    Share(std::shared_ptr<AnswerBudget> budget, std::string peer, std::uint64_t number, std::size_t bytes)
        : budget_(std::move(budget)), peer_(std::move(peer)), number_(number), bytes_(bytes) {}
    ~Share() { budget_->give_back(peer_, number_, bytes_); }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

   private:
    const std::shared_ptr<AnswerBudget> budget_;
    const std::string peer_;
    const std::uint64_t number_;
    const std::size_t bytes_;
  };

  // Null: so much is on its way to this peer, or to all of them, already. A peer to whom nothing is on its way gets it.
  [[nodiscard]] std::shared_ptr<Share> take(const std::string& peer, std::size_t bytes, TimePoint now) {
    const std::lock_guard lock(mutex_);
    while (!counted_.empty() && now - counted_.begin()->second.since >= kStale) uncount(counted_.begin());
    const auto known = by_peer_.find(peer);
    const std::size_t own = known == by_peer_.end() ? 0 : known->second;
    if (own > 0 && own + bytes > max_bytes_per_peer_) return nullptr;
    if (own > 0 && all_ + bytes > max_bytes_) return nullptr;
    counted_.emplace(++last_number_, Counted{.since = now, .bytes = bytes});
    all_ += bytes;
    by_peer_[peer] += bytes;
    return std::make_shared<Share>(shared_from_this(), peer, last_number_, bytes);
  }

  // `bytes` as a frame that holds `share` for as long as somebody holds the frame.
  [[nodiscard]] static Frame frame(std::vector<std::byte> bytes, std::shared_ptr<Share> share) {
    struct Held {
      std::vector<std::byte> bytes;
      std::shared_ptr<Share> share;
    };
    const auto held = std::make_shared<const Held>(std::move(bytes), std::move(share));
    return {std::span<const std::byte>(held->bytes), held};
  }

 private:
  struct Counted {
    TimePoint since;
    std::size_t bytes = 0;
  };

  void uncount(std::map<std::uint64_t, Counted>::iterator share) {
    all_ -= share->second.bytes;
    counted_.erase(share);
  }
  void give_back(const std::string& peer, std::uint64_t number, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (const auto counted = counted_.find(number); counted != counted_.end()) uncount(counted);
    if (const auto known = by_peer_.find(peer); (known->second -= bytes) == 0) by_peer_.erase(known);
  }

  const std::size_t max_bytes_;
  const std::size_t max_bytes_per_peer_;
  std::mutex mutex_;
  std::uint64_t last_number_ = 0;
  std::map<std::uint64_t, Counted> counted_;  // shares that are not stale, oldest first
  std::size_t all_ = 0;                       // their bytes
  std::map<std::string, std::size_t> by_peer_;
};

}  // namespace slipway::registry

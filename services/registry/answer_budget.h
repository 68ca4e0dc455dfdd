// How many bytes of answers may be on their way at once.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/wire/frame.h"

namespace slipway::registry {

// Bytes are taken before an answer is made, and given back when the sockets have let go of it. Threads: thread-safe.
class AnswerBudget : public std::enable_shared_from_this<AnswerBudget> {
 public:
  AnswerBudget(std::size_t max_bytes, std::size_t max_bytes_per_peer)
      : max_bytes_(max_bytes), max_bytes_per_peer_(max_bytes_per_peer) {}

  // Gives back what it holds at its end.
  class Share {
   public:
    Share(std::shared_ptr<AnswerBudget> budget, std::string peer, std::size_t bytes)
        : budget_(std::move(budget)), peer_(std::move(peer)), bytes_(bytes) {}
    ~Share() { budget_->give_back(peer_, bytes_); }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

   private:
    const std::shared_ptr<AnswerBudget> budget_;
    const std::string peer_;
    const std::size_t bytes_;
  };

  // Null: so much is on its way to this peer, or to all of them, already. What is more than a limit goes alone.
  [[nodiscard]] std::shared_ptr<Share> take(const std::string& peer, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto known = by_peer_.find(peer);
    const std::size_t own = known == by_peer_.end() ? 0 : known->second;
    if (own > 0 && own + bytes > max_bytes_per_peer_) return nullptr;
    if (all_ > 0 && all_ + bytes > max_bytes_) return nullptr;
    all_ += bytes;
    by_peer_[peer] += bytes;
    return std::make_shared<Share>(shared_from_this(), peer, bytes);
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
  void give_back(const std::string& peer, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    all_ -= bytes;
    if (const auto known = by_peer_.find(peer); (known->second -= bytes) == 0) by_peer_.erase(known);
  }

  const std::size_t max_bytes_;
  const std::size_t max_bytes_per_peer_;
  std::mutex mutex_;
  std::size_t all_ = 0;
  std::map<std::string, std::size_t> by_peer_;
};

}  // namespace slipway::registry

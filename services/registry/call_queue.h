// The calls that wait for the writer, those under a lease first: a lease must not run out behind a row of reads.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace slipway::registry {

// Threads: thread-safe.
class CallQueue {
 public:
  enum class Rank { kLease, kOther };
  using Work = std::function<void()>;

  // At most `max_waiting` of each rank.
  explicit CallQueue(std::size_t max_waiting) : max_waiting_(max_waiting) {}

  // False: too many of this rank wait, or it is closed.
  [[nodiscard]] bool push(Rank rank, Work work) {
    const std::lock_guard lock(mutex_);
    auto& waiting = waiting_[static_cast<std::size_t>(rank)];
    if (closed_ || waiting.size() >= max_waiting_) return false;
    waiting.push_back(std::move(work));
    changed_.notify_one();
    return true;
  }

  // The next one in order of rank, then of coming; null: none came within `limit`, or it has ended.
  [[nodiscard]] Work pop(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [this] { return closed_ || !empty(); });
    for (auto& waiting : waiting_) {
      if (waiting.empty()) continue;
      Work work = std::move(waiting.front());
      waiting.pop_front();
      return work;
    }
    return {};
  }

  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  // Closed, and nothing waits any more.
  [[nodiscard]] bool ended() const {
    const std::lock_guard lock(mutex_);
    return closed_ && empty();
  }

 private:
  [[nodiscard]] bool empty() const { return waiting_[0].empty() && waiting_[1].empty(); }

  const std::size_t max_waiting_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::array<std::deque<Work>, 2> waiting_;  // by rank
  bool closed_ = false;
};

}  // namespace slipway::registry

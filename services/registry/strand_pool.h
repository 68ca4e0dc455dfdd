// A few threads for work that waits for the disk or computes hashes; work with the same key runs one at a time, in
// order.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace slipway::registry {

// Life: stop() (or destruction) runs what is queued, then joins. Threads: post from any thread, also from work.
class StrandPool {
 public:
  using Work = std::function<void()>;
  using OnFailure = std::function<void(const std::exception& failure)>;

  // Work that throws ends there; the strand's next work has its turn. `on_failure`: told of it, on the pool's thread.
  explicit StrandPool(int threads, OnFailure on_failure = nullptr);
  ~StrandPool() { stop(); }
  StrandPool(const StrandPool&) = delete;
  StrandPool& operator=(const StrandPool&) = delete;

  // An empty key: in any order. False, and the work is dropped: stop() has begun.
  [[nodiscard]] bool post(const std::string& key, Work work);
  void stop();

 private:
  void run();

  const OnFailure on_failure_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::string> turns_;                   // keys with work whose turn it is
  std::map<std::string, std::deque<Work>> queued_;  // of keys that have work queued or running
  std::uint64_t next_loose_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace slipway::registry

#include "services/registry/strand_pool.h"

namespace slipway::registry {

StrandPool::StrandPool(int threads, OnFailure on_failure) : on_failure_(std::move(on_failure)) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
}

bool StrandPool::post(const std::string& key, Work work) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  // Work without a key gets one of its own; no upload id looks like it.
  const std::string strand = key.empty() ? "#" + std::to_string(++next_loose_) : key;
  const auto [entry, idle] = queued_.try_emplace(strand);
  entry->second.push_back(std::move(work));
  if (!idle) return true;
  turns_.push_back(strand);
  ready_.notify_one();
  return true;
}

void StrandPool::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ready_.wait(lock, [this] { return !turns_.empty() || (stopping_ && queued_.empty()); });
    if (turns_.empty()) return;
    const std::string strand = std::move(turns_.front());
    turns_.pop_front();
    const auto entry = queued_.find(strand);
    {
      const Work work = std::move(entry->second.front());
      entry->second.pop_front();
      lock.unlock();
      try {
        work();
      } catch (const std::exception& failure) {
        if (on_failure_) on_failure_(failure);
      }
    }
    lock.lock();
    // The entry stayed, so nobody else could give this strand a turn meanwhile.
    if (entry->second.empty()) {
      queued_.erase(entry);
      if (stopping_ && queued_.empty()) ready_.notify_all();
    } else {
      turns_.push_back(strand);
      ready_.notify_one();
    }
  }
}

void StrandPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (auto& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
  threads_.clear();
}

}  // namespace slipway::registry

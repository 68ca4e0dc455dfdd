// Which parts of uploads may wait for the disk.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>

#include "schema/records.h"

namespace slipway::registry {

// Bounds the bytes of parts that wait, and lets every upload have one part there whatever the others send: one whose
// parts are refused gets on all the same. Threads: thread-safe.
class PartGate {
 public:
  explicit PartGate(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  // Whether a part of `bytes` may wait; then leave() is owed. False: too much waits, some of it of this upload.
  [[nodiscard]] bool enter(const UploadId& upload, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (waiting_bytes_ + bytes > max_bytes_ && waiting_.contains(upload)) return false;
    waiting_bytes_ += bytes;
    ++waiting_[upload];
    return true;
  }

  void leave(const UploadId& upload, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    waiting_bytes_ -= bytes;
    if (const auto parts = waiting_.find(upload); --parts->second == 0) waiting_.erase(parts);
  }

  [[nodiscard]] std::size_t waiting_bytes() const {
    const std::lock_guard lock(mutex_);
    return waiting_bytes_;
  }

 private:
  const std::size_t max_bytes_;
  mutable std::mutex mutex_;
  std::size_t waiting_bytes_ = 0;
  std::map<UploadId, std::size_t> waiting_;  // parts by upload
};

}  // namespace slipway::registry

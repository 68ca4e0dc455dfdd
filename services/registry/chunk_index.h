// Whether a chunk may be named by something that stays: known without reading the records.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "schema/records.h"
#include "services/registry/chunk_store.h"

namespace slipway::registry {

// Eight bytes a chunk: it may take one for another that is named, and never the other way. Made anew by each sweep,
// which reads all records; what is committed meanwhile is added. It is added before it is committed, so that a sweep
// that begins in between may not see it: the next one does. Threads: thread-safe.
class ChunkIndex {
 public:
  // The records are about to be read: what is added from now on they may not show.
  void begin() {
    const std::lock_guard lock(mutex_);
    earlier_.merge(before_);
    before_ = std::exchange(added_, {});
  }
  void finish(const DigestSet& found) {
    std::vector<std::uint64_t> sorted;
    sorted.reserve(found.size());
    for (const Digest& digest : found) sorted.push_back(short_of(digest));
    std::ranges::sort(sorted);
    const std::lock_guard lock(mutex_);
    found_ = std::move(sorted);
    earlier_.clear();
    ready_ = true;
  }

  void add(const std::vector<StoredFile>& files) {
    const std::lock_guard lock(mutex_);
    for (const StoredFile& file : files) {
      for (const Digest& digest : file.chunks) added_.insert(short_of(digest));
    }
  }

  // False before the first sweep is through.
  [[nodiscard]] bool ready() const {
    const std::lock_guard lock(mutex_);
    return ready_;
  }
  [[nodiscard]] bool may_name(const Digest& digest) const {
    const std::uint64_t number = short_of(digest);
    const std::lock_guard lock(mutex_);
    return added_.contains(number) || before_.contains(number) || earlier_.contains(number) ||
           std::ranges::binary_search(found_, number);
  }

 private:
  static std::uint64_t short_of(const Digest& digest) {
    std::uint64_t number = 0;
    std::memcpy(&number, digest.bytes.data(), sizeof number);
    return number;
  }

  mutable std::mutex mutex_;
  bool ready_ = false;
  std::vector<std::uint64_t> found_;           // sorted
  std::unordered_set<std::uint64_t> earlier_;  // added before the sweep before the last one began
  std::unordered_set<std::uint64_t> before_;   // between that and the begin of the last one
  std::unordered_set<std::uint64_t> added_;    // since then
};

}  // namespace slipway::registry

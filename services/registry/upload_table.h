// The uploads that are known: who they are, when they were last used, and which chunks they hold.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "lib/base/error.h"
#include "services/registry/chunk_store.h"
#include "services/registry/upload.h"

namespace slipway::registry {

struct UploadLimits {
  std::uint64_t max_bytes = 64ULL << 30;    // of one upload, decompressed
  std::size_t max_open = 64;                // not yet committed; each may hold a chunk in memory
  std::chrono::milliseconds idle{600'000};  // after which one is dropped
};

// Threads: thread-safe. An upload itself is used by one thread at a time: its strand's.
class UploadTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  UploadTable(UploadLimits limits, ChunkStore& chunks) : limits_(limits), chunks_(chunks) {}

  // `owner`: who asks. The last quarter of the places is kept for owners with few open ones, so that a gateway's
  // clients cannot take them all from the trainers. Errors: kOverloaded (too many are open).
  [[nodiscard]] Result<UploadId> open(TimePoint now, const std::string& owner);

  // The upload; it is not dropped while the pointer is held. Errors: kNotFound (never opened, dropped, or the registry
  // was started again since).
  [[nodiscard]] Result<std::shared_ptr<Upload>> use(const UploadId& id, TimePoint now);

  // Its files have become something: it no longer counts as open. It stays until it has been idle, so that a repeat of
  // the commit finds it.
  void set_committed(const UploadId& id);

  void drop(const UploadId& id);
  // Returns how many.
  std::size_t drop_idle(TimePoint now);

  // Adds the chunks of all uploads: they must not be swept.
  void add_chunks(DigestSet& chunks) const;

  [[nodiscard]] bool contains(const UploadId& id) const;
  [[nodiscard]] std::size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<Upload> upload;
    std::shared_ptr<DigestSet> chunks;  // guarded by mutex_
    std::string owner;
    TimePoint last_used;
    bool committed = false;
  };

  const UploadLimits limits_;
  ChunkStore& chunks_;
  mutable std::mutex mutex_;
  std::map<UploadId, Entry> entries_;
};

}  // namespace slipway::registry

// The uploads that are known: who they are, when they were last used, and which chunks they hold.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "services/registry/chunk_store.h"
#include "services/registry/upload.h"

namespace slipway::registry {

struct UploadLimits {
  std::uint64_t max_bytes = 64ULL << 30;  // of one upload, decompressed
  // Not yet committed, each of which may hold a chunk in memory. Once this many are open, only owners with few of
  // them get another place, until there are max_open_of_all.
  std::size_t max_open = 128;
  std::size_t max_open_of_all = 1'024;
  std::chrono::milliseconds idle{600'000};  // after which one is dropped
  std::chrono::milliseconds gone{4'000};    // for which an owner is unreachable before his are dropped
};

// An upload whose owner has lost its connection, or who has aborted it, is dropped: it is known no more and takes no
// place, but what uses it still may finish, and its chunks are held until then.
// Threads: thread-safe. An upload itself is used by one thread at a time: its strand's.
class UploadTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  UploadTable(UploadLimits limits, ChunkStore& chunks);

  // `owner`: the peer who asks. Trainers have few open ones, so a gateway's clients cannot take their places.
  // Errors: kOverloaded (too many are open).
  [[nodiscard]] Result<UploadId> open(TimePoint now, const std::string& owner);

  // The upload; its chunks are not swept while the pointer is held. Errors: kNotFound (this is no upload's id),
  // kUnavailable (it was dropped, or the registry has been started since: it is to be sent again, as another upload).
  [[nodiscard]] Result<std::shared_ptr<Upload>> use(const UploadId& id, TimePoint now);

  // Its files have become something: it no longer counts as open. It stays until it has been idle, so that a repeat of
  // the commit finds it.
  void set_committed(const UploadId& id);

  void drop(const UploadId& id);
  // Returns how many.
  std::size_t drop_idle(TimePoint now);

  // Whom to knock at about every second: owners of uploads that are open. What becomes of it is told to on_unreachable.
  [[nodiscard]] std::vector<std::string> owners() const;
  void on_unreachable(const std::string& owner, TimePoint now);
  // Drops the open uploads of owners who were unreachable for `gone` without a break. Returns how many.
  std::size_t drop_gone(TimePoint now);

  // Adds the chunks of all uploads, also of dropped ones that are in use: they must not be swept.
  void add_chunks(DigestSet& chunks) const;

  [[nodiscard]] std::size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<Upload> upload;
    std::shared_ptr<DigestSet> chunks;  // guarded by mutex_
    std::string owner;
    TimePoint last_used;
    bool committed = false;
    bool dropped = false;
    [[nodiscard]] bool is_open() const { return !committed && !dropped; }
  };
  struct Unreachable {
    TimePoint since;
    TimePoint last;
  };

  void drop_unused();

  const UploadLimits limits_;
  const std::string start_;  // with which ids given since the start begin
  ChunkStore& chunks_;
  mutable std::mutex mutex_;
  std::map<UploadId, Entry> entries_;
  std::map<std::string, Unreachable> unreachable_;  // by owner
};

}  // namespace slipway::registry

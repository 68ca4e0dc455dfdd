// Marks by which a repeated question is known: which job an idempotency key has made, which version an upload became.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/base/error.h"
#include "schema/records.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

// They are written in the batch of what they tell of, and forgotten after a day.
// Threads: as the store's. Life: must not outlive the store.
class RepeatMarks {
 public:
  static constexpr std::int64_t kMaxAgeMs = 24LL * 3'600 * 1'000;

  struct Submission {
    std::uint64_t job = 0;
    std::optional<Digest> document;  // none: a mark of an earlier release, which belongs to no actor
  };
  struct VersionMade {
    std::string model;
    std::uint64_t version = 0;
  };
  struct Publication {
    VersionMade made;
    Digest document;
  };

  explicit RepeatMarks(const RocksStore& store) : store_(store) {}

  // What `actor` has submitted under `key` within the last day.
  [[nodiscard]] Result<std::optional<Submission>> submission(const std::string& actor, const std::string& key,
                                                             std::int64_t now_ms) const;
  static void put_submission(Batch& batch, const std::string& actor, const std::string& key, std::uint64_t job,
                             const Digest& document, std::int64_t now_ms);

  // What `actor` has published under `key` within the last day, and the digest of what it was asked to be.
  [[nodiscard]] Result<std::optional<Publication>> publication(const std::string& actor, const std::string& key,
                                                               std::int64_t now_ms) const;
  static void put_publication(Batch& batch, const std::string& actor, const std::string& key,
                              const Publication& publication, std::int64_t now_ms);

  [[nodiscard]] Result<std::optional<VersionMade>> version_made(const UploadId& upload) const;
  static void put_version_made(Batch& batch, const UploadId& upload, const VersionMade& made, std::int64_t now_ms);

  // Adds to `batch` the erasure of at most `limit` marks that are older than a day. True: there may be more.
  [[nodiscard]] Result<bool> purge(Batch& batch, std::int64_t now_ms, std::size_t limit) const;

 private:
  const RocksStore& store_;
};

}  // namespace slipway::registry

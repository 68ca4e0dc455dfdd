// Makes backups while the registry works, one at a time, in a thread of its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "services/registry/backup_folder.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

// A backup is the database as it was at one moment, copied first, and every chunk that is there afterwards: a record
// never names a chunk that is not there yet, and none is deleted meanwhile. Chunks that earlier backups have are not
// read again; one that the registry has lost comes from them, if they have it. Threads: thread-safe. Life: must not
// outlive the stores; its end gives up what is being made.
class BackupMaker {
 public:
  struct Options {
    std::filesystem::path folder;    // of the backups
    std::filesystem::path data_dir;  // of the registry
    std::uint64_t min_free_bytes = 0;
  };
  // What has ended, well or not, before anybody can see it; from the maker's thread. Must not call the maker.
  using OnEnd = std::function<void(const msg::Backup&)>;

  // Whoever deletes chunks of `chunks` holds `deleting` shared; a backup holds it alone.
  BackupMaker(Options options, const RocksStore& store, const ChunkStore& chunks, std::shared_mutex& deleting,
              OnEnd on_end);
  ~BackupMaker();
  BackupMaker(const BackupMaker&) = delete;
  BackupMaker& operator=(const BackupMaker&) = delete;

  // Begins one, and says which; what becomes of it list() tells. Afterwards the older ones beyond `keep` are deleted,
  // but not the newest one that lacks nothing; 0: none is. Errors: kConflict (one is being made: the message says
  // which), kUnavailable (stopping).
  [[nodiscard]] Result<msg::Backup> begin(std::uint32_t keep, std::string actor, std::int64_t now_ms);

  // The whole ones, the one that is being made, and the last one that failed since the start; the oldest first. `id`:
  // of that one alone. Errors: as BackupFolder.
  [[nodiscard]] Result<std::vector<msg::Backup>> list(const std::string& id) const;

  // Errors: as BackupFolder; kConflict (one is being made, and builds on what there is).
  [[nodiscard]] Result<void> remove(const std::string& id);

  [[nodiscard]] const BackupFolder& folder() const { return folder_; }

  // Gives up what is being made, and makes no more. Idempotent.
  void stop();

 private:
  void run(const std::stop_token& stopping, std::uint32_t keep);
  [[nodiscard]] Result<BackupManifest> make(const std::stop_token& stopping, const std::string& id);
  [[nodiscard]] Result<std::vector<Digest>> wanted_chunks() const;
  [[nodiscard]] Result<void> thin_out(std::uint32_t keep, const std::string& newest) const;
  [[nodiscard]] std::string new_id(std::int64_t now_ms);
  [[nodiscard]] msg::Backup failed(const Error& why) const;
  void note(const std::function<void(msg::Backup&)>& change);

  const Options options_;
  const RocksStore& store_;
  const ChunkStore& chunks_;
  std::shared_mutex& deleting_;
  const OnEnd on_end_;
  const BackupFolder folder_;

  mutable std::mutex mutex_;            // guards all below
  std::map<std::string, int> numbers_;  // of those begun in a second
  bool busy_ = false;                   // one is made or deleted
  bool stopped_ = false;
  std::optional<msg::Backup> current_;  // being made
  std::optional<msg::Backup> failed_;
  std::jthread thread_;
};

}  // namespace slipway::registry

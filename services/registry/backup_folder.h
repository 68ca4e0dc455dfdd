// A folder of backups as it lies on a disk: what a restore needs, and nothing that only a running registry knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/chunk_store.h"

namespace slipway::registry {

// What a backup consists of, besides the chunks.
struct BackupManifest {
  struct File {
    std::string name;  // in the backup's own folder, "db/CURRENT"
    std::uint64_t size_bytes = 0;
    Digest digest;
  };
  msg::Backup backup;
  std::vector<File> files;
};

// Layout:
//   <folder>/chunks/ab/cdef...   the bytes, once for all backups
//   <folder>/ID/db/...           the database's files
//   <folder>/ID/format           as store_format.h has it
//   <folder>/ID/chunks           digests of the chunks that it needs, 32 bytes each, in order
//   <folder>/ID/backup.json      the manifest, written last: what has none is not whole
// Threads: reads from any thread; only one at a time may change it. Errors of all: those of io_error; kNotFound (no
// such backup: the message says which there are), kDataLoss (a manifest or a list that is not what it should be).
class BackupFolder {
 public:
  explicit BackupFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

  [[nodiscard]] std::filesystem::path path_of(std::string_view id) const { return folder_ / id; }
  [[nodiscard]] std::filesystem::path chunks_path() const { return folder_ / "chunks"; }

  // The whole ones, the oldest first. One whose manifest is damaged is among them, as failed.
  [[nodiscard]] Result<std::vector<msg::Backup>> list() const;
  [[nodiscard]] Result<BackupManifest> manifest(std::string_view id) const;
  [[nodiscard]] Result<std::vector<Digest>> chunks(std::string_view id) const;

  // A new backup's own folder, empty; what earlier ones that were not finished have left is deleted.
  [[nodiscard]] Result<void> begin(std::string_view id) const;
  // Writes the list of chunks, then the manifest: from then on it is whole. Fills in what the manifest says of the
  // files that lie in its folder, and their share of the sizes.
  [[nodiscard]] Result<BackupManifest> finish(msg::Backup backup, const std::vector<Digest>& chunks) const;

  // Deletes a backup. Its chunks wait for sweep().
  [[nodiscard]] Result<void> remove(std::string_view id) const;
  // Deletes the chunks that no backup names; how many. Nothing is deleted when one of the lists cannot be read.
  [[nodiscard]] Result<std::uint64_t> sweep() const;

  // The files of a whole backup from number `after` on, at most `limit`, named from this folder on: its own, the
  // chunks, the manifest.
  [[nodiscard]] Result<std::vector<msg::BackupFile>> files(std::string_view id, std::uint64_t after,
                                                           std::size_t limit) const;
  // At most 4 MiB of one of them.
  [[nodiscard]] Result<std::vector<std::byte>> read(std::string_view id, std::string_view file,
                                                    std::uint64_t offset_bytes) const;

 private:
  [[nodiscard]] Result<std::vector<std::string>> ids(bool whole) const;
  [[nodiscard]] std::unexpected<Error> not_found(std::string_view id) const;

  const std::filesystem::path folder_;
};

}  // namespace slipway::registry

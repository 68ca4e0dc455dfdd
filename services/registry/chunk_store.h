// Immutable, content-addressed files of at most 4 MiB: the bytes of data sets, checkpoints and versions.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "lib/base/error.h"
#include "schema/limits.h"
#include "schema/records.h"

namespace slipway::registry {

struct DigestHash {
  std::size_t operator()(const Digest& digest) const noexcept;
};
using DigestSet = std::unordered_set<Digest, DigestHash>;

// Bytes free for this process on the file system that holds `folder`. Errors: kInternal (cannot be asked).
[[nodiscard]] Result<std::uint64_t> free_bytes(const std::filesystem::path& folder);

// Makes a folder and those it lies in, so that they are there after a power cut too. Errors: kUnavailable.
[[nodiscard]] Result<void> make_folder(const std::filesystem::path& folder);

// Of a chunk, in a folder of chunks: "ab/cdef...".
[[nodiscard]] std::string chunk_name(const Digest& digest);

// Layout: <folder>/ab/cdef..., the digest in hexadecimal; <folder>/tmp/ holds what is being written and is emptied at
// open. Threads: thread-safe. Only one process may use a folder at a time (the database beside it is locked).
class ChunkStore {
 public:
  // Errors: kUnavailable (the folder cannot be made or written).
  [[nodiscard]] static Result<std::unique_ptr<ChunkStore>> open(const std::filesystem::path& folder,
                                                                std::uint64_t min_free_bytes);

  // Stores `bytes`, at most kChunkBytes, whose SHA-256 is `digest`. When it returns they are on the disk, whole and
  // under their name. Bytes that are there already are not written again, unless they are damaged. Errors: kUnavailable
  // (disk full, or less than min_free_bytes would be left, or no descriptor is; retry later), kInternal (I/O).
  [[nodiscard]] Result<void> put(const Digest& digest, std::span<const std::byte> bytes);

  // Errors: kNotFound (no such chunk, or no digest), kDataLoss (the stored bytes are not those of the digest),
  // kUnavailable (no descriptor is left; retry later), kInternal (I/O).
  [[nodiscard]] Result<std::vector<std::byte>> get(const Digest& digest) const;

  // The same, from a folder that may be another's and is not written.
  [[nodiscard]] static Result<std::vector<std::byte>> get(const std::filesystem::path& folder, const Digest& digest);

  // Of a chunk, as the disk has it; nullopt: it is not there. Does not look at its bytes.
  [[nodiscard]] std::optional<std::uint64_t> size_of(const Digest& digest) const;

  // Of all that are there, in no order. Errors: kInternal (a folder cannot be read).
  [[nodiscard]] Result<std::vector<Digest>> digests() const;

  // Deletes the chunks that are not in `referenced` and were last put before `older_than`; returns how many.
  std::uint64_t sweep(const DigestSet& referenced, std::filesystem::file_time_type older_than);

  // Deletes one chunk that nothing names, unless it was put at or after `older_than`. Whether it is gone.
  [[nodiscard]] bool remove(const Digest& digest, std::filesystem::file_time_type older_than);

  [[nodiscard]] std::uint64_t stored_bytes() const { return stored_bytes_; }

 private:
  ChunkStore(std::filesystem::path folder, std::uint64_t min_free_bytes);
  template <class Visit>
  [[nodiscard]] Result<void> each_file(const Visit& visit) const;
  [[nodiscard]] std::filesystem::path path_of(const Digest& digest) const;
  [[nodiscard]] bool remove_file(const std::filesystem::path& path, std::filesystem::file_time_type older_than);
  [[nodiscard]] Result<bool> keep_existing(const Digest& digest, const std::filesystem::path& path);

  const std::filesystem::path folder_;
  const std::uint64_t min_free_bytes_;
  std::atomic<std::uint64_t> stored_bytes_{0};
  std::atomic<std::uint64_t> next_temporary_{0};
  std::mutex names_;  // held while a chunk gets its name, is kept once more, or is deleted
};

}  // namespace slipway::registry

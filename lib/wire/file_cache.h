// Downloaded files in a folder, named by their digest, within a budget of bytes: what was not used for the longest time
// goes first, and nothing goes while it is in use. Other files in the folder are left alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "lib/wire/blob_transfer.h"

namespace slipway {

// A file that stays where it is for as long as this or a copy of it lives.
class CachedFile {
 public:
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  friend class FileCache;
  CachedFile(std::filesystem::path path, std::shared_ptr<const void> use)
      : path_(std::move(path)), use_(std::move(use)) {}
  std::filesystem::path path_;
  std::shared_ptr<const void> use_;  // holds a shared lock on the file
};

// Life: what it hands out may outlive it. Threads: any. Processes: several may share a folder and keep each other's
// files in use; the last budget to be applied counts. What is in use and what is larger than the budget is kept all the
// same, so the folder may exceed it for as long.
class FileCache {
 public:
  // Removes what killed processes left half downloaded. Files of earlier processes count, in the order of their last
  // use, which is their time of modification.
  FileCache(std::filesystem::path folder, std::uint64_t budget_bytes);

  // The file, kept from an earlier time when still whole, else fetched; whole or absent under its name. Waits.
  // Errors: those of download_to; kInternal (this machine cannot keep the file).
  [[nodiscard]] Result<CachedFile> get(Caller& registry, const StoredFile& file) const;

  // Evicts until what is there and `more_bytes` are within the budget, or all that is left is in use.
  void make_room(std::uint64_t more_bytes = 0) const;

  [[nodiscard]] std::uint64_t bytes() const;  // of the files, in use or not
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  const std::filesystem::path folder_;
  const std::uint64_t budget_bytes_;
};

// As FileCache::get, without a budget and without holding the file.
[[nodiscard]] Result<std::filesystem::path> download_to_cache(Caller& registry, const StoredFile& file,
                                                              const std::filesystem::path& folder);

// Removes what killed processes left half downloaded in `folder`; files that may still be written stay. For the start.
void sweep_partial_downloads(const std::filesystem::path& folder);

}  // namespace slipway

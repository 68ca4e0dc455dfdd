// Files that are on the disk, and not only the kernel's, when a call returns.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "lib/base/error.h"

namespace slipway::registry {

// An open file; closed with its owner. `flags` as for open(2).
class File {
 public:
  File(const std::filesystem::path& path, int flags);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  const int fd_;
};

// Of what failed with `error`, an errno: kUnavailable when there is no room, to be tried again later; else kInternal,
// a fault of the disk or of ours.
[[nodiscard]] std::unexpected<Error> io_error(const std::string& what, int error);

// Makes a file of these bytes and syncs it; the entry in its folder is not. `what` names it in messages. Errors: those
// of io_error; there is a file of that name already.
[[nodiscard]] Result<void> write_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                                        const std::string& what);

// Errors: those of io_error.
[[nodiscard]] Result<void> sync_folder(const std::filesystem::path& folder, const std::string& what);

}  // namespace slipway::registry

// Files that are on the disk, and not only the kernel's, when a call returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

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

// Of what failed with `error`, an errno: kUnavailable when there is no room or no descriptor, to be tried again later;
// else kInternal, a fault of the disk or of ours.
[[nodiscard]] std::unexpected<Error> io_error(const std::string& what, int error);

// Makes a file of these bytes and syncs it; the entry in its folder is not. `what` names it in messages. Errors: those
// of io_error; there is a file of that name already.
[[nodiscard]] Result<void> write_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                                        const std::string& what);

// The same, in place of a file of that name, which is whole before and after; the folder is synced too.
[[nodiscard]] Result<void> replace_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                                          const std::string& what);

// Copies a file piece by piece; syncs the copy, not its folder. Returns the SHA-256 of what was copied. Errors: those
// of io_error; there is a file `to` already.
[[nodiscard]] Result<Digest> copy_synced(const std::filesystem::path& from, const std::filesystem::path& to,
                                         const std::string& what);

// The SHA-256 of a file. Errors: those of io_error.
[[nodiscard]] Result<Digest> digest_of_file(const std::filesystem::path& path, const std::string& what);

// At most `max_bytes` from `offset` on; fewer at the end of the file. Errors: kNotFound; those of io_error.
[[nodiscard]] Result<std::vector<std::byte>> read_at(const std::filesystem::path& path, std::uint64_t offset,
                                                     std::size_t max_bytes, const std::string& what);

// Errors: those of io_error.
[[nodiscard]] Result<void> sync_folder(const std::filesystem::path& folder, const std::string& what);

}  // namespace slipway::registry

#include "services/registry/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <format>

#include "lib/base/sha256.h"

namespace slipway::registry {
namespace {

constexpr std::size_t kPieceBytes = 1 << 20;

Result<void> write_all(const File& file, std::span<const std::byte> bytes, const std::string& what) {
  while (!bytes.empty()) {
    const auto written = ::write(file.fd(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return io_error("cannot write " + what, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

// How many bytes from `offset` on were read into `bytes`: fewer than it has only at the end.
Result<std::size_t> read_some(const File& file, std::uint64_t offset, std::span<std::byte> bytes,
                              const std::string& what) {
  std::size_t size = 0;
  while (size < bytes.size()) {
    const auto count = ::pread(file.fd(), bytes.data() + size, bytes.size() - size, static_cast<off_t>(offset + size));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error("cannot read " + what, errno);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  return size;
}

// Hands the pieces of a file to `take` (Result<void>(std::span<const std::byte>)); returns the digest of all of them.
template <class Take>
Result<Digest> each_piece(const std::filesystem::path& path, const std::string& what, const Take& take) {
  const File file(path, O_RDONLY);
  if (!file.is_open()) return io_error("cannot open " + what, errno);
  Sha256 digest;
  std::vector<std::byte> piece(kPieceBytes);
  for (std::uint64_t offset = 0;;) {
    const auto size = read_some(file, offset, piece, what);
    if (!size) return std::unexpected(size.error());
    if (*size == 0) return digest.finish();
    const auto bytes = std::span<const std::byte>(piece).first(*size);
    digest.update(bytes);
    if (auto taken = take(bytes); !taken) return std::unexpected(std::move(taken).error());
    offset += *size;
  }
}

}  // namespace

File::File(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0640)) {}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

std::unexpected<Error> io_error(const std::string& what, int error) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return std::unexpected(
        Error{.code = Code::kUnavailable,
              .message = std::format("the registry's disk is full ({}: {})", what, std::strerror(error)),
              .path = {},
              .retry_after = std::chrono::seconds(5)});
  }
  if (error == EMFILE || error == ENFILE) {
    return std::unexpected(Error{
        .code = Code::kUnavailable,
        .message = std::format("the registry may open no more files for now ({}: {})", what, std::strerror(error)),
        .path = {},
        .retry_after = std::chrono::seconds(1)});
  }
  return fail(Code::kInternal, std::format("{}: {}", what, std::strerror(error)));
}

Result<void> write_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                          const std::string& what) {
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (!file.is_open()) return io_error("cannot create " + what, errno);
  if (auto written = write_all(file, bytes, what); !written) return written;
  if (::fsync(file.fd()) != 0) return io_error("cannot sync " + what, errno);
  return {};
}

Result<void> replace_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                            const std::string& what) {
  const std::filesystem::path part = path.string() + ".part";
  ::unlink(part.c_str());  // of a process that died here
  if (auto written = write_synced(part, bytes, what); !written) return written;
  if (::rename(part.c_str(), path.c_str()) != 0) return io_error("cannot write " + what, errno);
  return sync_folder(path.parent_path(), what);
}

Result<Digest> copy_synced(const std::filesystem::path& from, const std::filesystem::path& to,
                           const std::string& what) {
  const File copy(to, O_WRONLY | O_CREAT | O_EXCL);
  if (!copy.is_open()) return io_error("cannot create " + what, errno);
  auto digest = each_piece(from, what, [&](std::span<const std::byte> bytes) { return write_all(copy, bytes, what); });
  if (digest && ::fsync(copy.fd()) != 0) return io_error("cannot sync " + what, errno);
  return digest;
}

Result<Digest> digest_of_file(const std::filesystem::path& path, const std::string& what) {
  return each_piece(path, what, [](std::span<const std::byte>) { return Result<void>(); });
}

Result<std::vector<std::byte>> read_at(const std::filesystem::path& path, std::uint64_t offset, std::size_t max_bytes,
                                       const std::string& what) {
  const File file(path, O_RDONLY);
  if (!file.is_open()) {
    if (errno == ENOENT) return fail(Code::kNotFound, "there is no " + what);
    return io_error("cannot open " + what, errno);
  }
  struct stat info{};
  if (::fstat(file.fd(), &info) != 0) return io_error("cannot open " + what, errno);
  const auto there = static_cast<std::uint64_t>(info.st_size);
  std::vector<std::byte> bytes(std::min<std::uint64_t>(max_bytes, there > offset ? there - offset : 0));
  const auto size = read_some(file, offset, bytes, what);
  if (!size) return std::unexpected(size.error());
  bytes.resize(*size);
  return bytes;
}

Result<void> sync_folder(const std::filesystem::path& folder, const std::string& what) {
  const File file(folder, O_RDONLY | O_DIRECTORY);
  if (!file.is_open() || ::fsync(file.fd()) != 0) return io_error("cannot sync " + what, errno);
  return {};
}

}  // namespace slipway::registry

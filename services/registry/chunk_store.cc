#include "services/registry/chunk_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <format>

#include "lib/base/sha256.h"
#include "services/registry/durable_file.h"

namespace slipway::registry {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr const char* kFolder = "the chunk folder";

Result<std::vector<std::byte>> read_whole(const fs::path& path) {
  const File file(path, O_RDONLY);
  if (!file.is_open()) {
    if (errno == ENOENT) return fail(Code::kNotFound, "there is no such chunk");
    return io_error("cannot open a chunk", errno);
  }
  struct stat info{};
  if (::fstat(file.fd(), &info) != 0) return io_error("cannot open a chunk", errno);
  // One more than it should be shows a file that is too long.
  std::vector<std::byte> bytes(std::min(static_cast<std::size_t>(info.st_size), kChunkBytes) + 1);
  std::size_t size = 0;
  while (size < bytes.size()) {
    const auto count = ::read(file.fd(), bytes.data() + size, bytes.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error("cannot read a chunk", errno);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace

std::string chunk_name(const Digest& digest) { return to_hex(digest).insert(2, 1, '/'); }

std::size_t DigestHash::operator()(const Digest& digest) const noexcept {
  std::size_t hash = 0;  // the digest's own bytes are as good as random
  std::memcpy(&hash, digest.bytes.data(), sizeof hash);
  return hash;
}

Result<std::uint64_t> free_bytes(const fs::path& folder) {
  struct statvfs info{};
  if (::statvfs(folder.c_str(), &info) != 0) return io_error("cannot tell how much room the disk has", errno);
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

Result<void> make_folder(const fs::path& folder) {
  const fs::path parent = folder.has_filename() ? folder.parent_path() : folder.parent_path().parent_path();
  std::error_code error;
  const bool made = !fs::exists(folder, error);
  if (made && !parent.empty()) {
    if (auto there = make_folder(parent); !there) return there;
  }
  fs::create_directory(folder, error);
  if (error) return fail(Code::kUnavailable, std::format("{}: {}", folder.string(), error.message()));
  // An earlier start may have been cut short, so the entry of a folder that is there is synced too, where that is ours
  // to do.
  if (auto synced = sync_folder(parent.empty() ? "." : parent, kFolder); !synced && made) return synced;
  return {};
}

ChunkStore::ChunkStore(fs::path folder, std::uint64_t min_free_bytes)
    : folder_(std::move(folder)), min_free_bytes_(min_free_bytes) {}

Result<std::unique_ptr<ChunkStore>> ChunkStore::open(const fs::path& folder, std::uint64_t min_free_bytes) {
  if (auto made = make_folder(folder); !made) return std::unexpected(std::move(made).error());
  std::error_code error;
  fs::remove_all(folder / "tmp", error);
  if (!error) fs::create_directory(folder / "tmp", error);
  for (int i = 0; i < 256 && !error; ++i) fs::create_directory(folder / std::format("{:02x}", i), error);
  if (error) return fail(Code::kUnavailable, std::format("{}: {}", folder.string(), error.message()));
  if (auto synced = sync_folder(folder, kFolder); !synced) return std::unexpected(synced.error());

  std::unique_ptr<ChunkStore> store(new ChunkStore(folder, min_free_bytes));
  for (auto entry = fs::recursive_directory_iterator(folder, error); !error && entry != fs::end(entry);
       entry.increment(error)) {
    std::error_code gone;
    if (entry->is_regular_file(gone)) store->stored_bytes_ += entry->file_size(gone);
  }
  if (error) return fail(Code::kUnavailable, std::format("{}: {}", folder.string(), error.message()));
  return store;
}

fs::path ChunkStore::path_of(const Digest& digest) const { return folder_ / chunk_name(digest); }

// Whether the chunk is there, whole; then it counts as put just now.
Result<bool> ChunkStore::keep_existing(const Digest& digest, const fs::path& path) {
  const auto existing = read_whole(path);
  if (!existing || sha256(*existing) != digest) return false;

  const std::lock_guard lock(names_);
  if (::utimensat(AT_FDCWD, path.c_str(), nullptr, 0) != 0) return false;  // swept meanwhile
  // Its name may not have reached the disk when the process that gave it was killed.
  if (auto synced = sync_folder(path.parent_path(), kFolder); !synced) return std::unexpected(synced.error());
  return true;
}

Result<void> ChunkStore::put(const Digest& digest, std::span<const std::byte> bytes) {
  if (bytes.size() > kChunkBytes) return fail(Code::kInternal, "a chunk of more than 4 MiB");
  if (digest.empty()) return fail(Code::kInternal, "a chunk without a digest");
  const fs::path path = path_of(digest);
  auto kept = keep_existing(digest, path);
  if (!kept) return std::unexpected(std::move(kept).error());
  if (*kept) return {};

  const auto free = free_bytes(folder_);
  if (!free) return std::unexpected(free.error());
  if (*free < min_free_bytes_ || *free - min_free_bytes_ < bytes.size()) {
    return std::unexpected(Error{.code = Code::kUnavailable,
                                 .message = std::format("the registry's disk is full: {} bytes are free, {} are kept "
                                                        "free",
                                                        *free, min_free_bytes_),
                                 .path = {},
                                 .retry_after = 5s});
  }

  const fs::path temporary = folder_ / "tmp" / std::to_string(++next_temporary_);
  auto written = write_synced(temporary, bytes, "a chunk");
  if (!written) {
    ::unlink(temporary.c_str());
    return written;
  }
  const std::lock_guard lock(names_);
  struct stat before{};
  const bool replaces = ::stat(path.c_str(), &before) == 0;
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return io_error("cannot name a chunk", error);
  }
  stored_bytes_ += bytes.size() - (replaces ? static_cast<std::uint64_t>(before.st_size) : 0);
  return sync_folder(path.parent_path(), kFolder);
}

Result<std::vector<std::byte>> ChunkStore::get(const Digest& digest) const { return get(folder_, digest); }

Result<std::vector<std::byte>> ChunkStore::get(const fs::path& folder, const Digest& digest) {
  if (digest.empty()) return fail(Code::kNotFound, "there is no chunk without a digest");
  auto bytes = read_whole(folder / chunk_name(digest));
  if (!bytes) {
    auto error = std::move(bytes).error();
    error.message += ": " + to_hex(digest);
    return std::unexpected(std::move(error));
  }
  if (sha256(*bytes) != digest) {
    return fail(Code::kDataLoss, std::format("chunk {} is damaged on the registry's disk: its {} bytes have another "
                                             "digest",
                                             to_hex(digest), bytes->size()));
  }
  return bytes;
}

// Whether it was there and is deleted.
bool ChunkStore::remove_file(const fs::path& path, fs::file_time_type older_than) {
  const std::lock_guard lock(names_);
  std::error_code gone;
  const auto last_put = fs::last_write_time(path, gone);
  const auto size = gone ? 0 : fs::file_size(path, gone);
  if (gone || last_put >= older_than || !fs::remove(path, gone)) return false;
  stored_bytes_ -= size;
  return true;
}

bool ChunkStore::remove(const Digest& digest, fs::file_time_type older_than) {
  if (digest.empty()) return true;
  const fs::path path = path_of(digest);
  std::error_code gone;
  return remove_file(path, older_than) || !fs::exists(path, gone);
}

std::optional<std::uint64_t> ChunkStore::size_of(const Digest& digest) const {
  std::error_code error;
  const auto size = fs::file_size(path_of(digest), error);
  return error ? std::nullopt : std::optional<std::uint64_t>(size);
}

// All folders are tried; the error is that of the last one that cannot be read.
template <class Visit>
Result<void> ChunkStore::each_file(const Visit& visit) const {
  Result<void> read;
  for (int i = 0; i < 256; ++i) {
    const std::string prefix = std::format("{:02x}", i);
    std::error_code error;
    for (auto entry = fs::directory_iterator(folder_ / prefix, error); !error && entry != fs::end(entry);
         entry.increment(error)) {
      if (const auto digest = digest_from_hex(prefix + entry->path().filename().string()))
        visit(*digest, entry->path());
    }
    if (error) read = fail(Code::kInternal, std::format("{}/{}: {}", folder_.string(), prefix, error.message()));
  }
  return read;
}

Result<std::vector<Digest>> ChunkStore::digests() const {
  std::vector<Digest> all;
  const auto read = each_file([&](const Digest& digest, const fs::path&) { all.push_back(digest); });
  if (!read) return std::unexpected(read.error());
  return all;
}

std::uint64_t ChunkStore::sweep(const DigestSet& referenced, fs::file_time_type older_than) {
  std::uint64_t deleted = 0;
  const auto read = each_file([&](const Digest& digest, const fs::path& path) {
    if (!referenced.contains(digest) && remove_file(path, older_than)) ++deleted;
  });
  if (!read) spdlog::warn("chunk sweep not complete message=\"{}\"", read.error().message);
  return deleted;
}

}  // namespace slipway::registry

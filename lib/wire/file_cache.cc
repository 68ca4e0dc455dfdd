#include "lib/wire/file_cache.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include "lib/base/log.h"
#include "lib/base/random_id.h"
#include "lib/base/sha256.h"

namespace slipway {
namespace {

namespace fs = std::filesystem;

// Not a "later": nothing says that this machine will ever be able to.
Error write_error(const fs::path& path) {
  return {.code = Code::kInternal,
          .message = std::format("cannot write {}: {}", path.string(), std::strerror(errno)),
          .path = {}};
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  [[nodiscard]] int get() const { return number_; }

 private:
  int number_;
};

// Whether `path` still is the file that is open: another process may have evicted or replaced it meanwhile.
bool is_at(const Descriptor& file, const fs::path& path) {
  struct stat open{};
  struct stat named{};
  return ::fstat(file.get(), &open) == 0 && ::stat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

bool is_whole(const Descriptor& file, const StoredFile& wanted) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || static_cast<std::uint64_t>(status.st_size) != wanted.size_bytes)
    return false;
  Sha256 hash;
  std::vector<std::byte> buffer(1 << 20);
  for (off_t at = 0;;) {
    const auto got = ::pread(file.get(), buffer.data(), buffer.size(), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    if (got == 0) return hash.finish() == wanted.digest;
    hash.update(std::span(buffer).first(static_cast<std::size_t>(got)));
    at += got;
  }
}

Result<void> write_all(const Descriptor& file, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const auto written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return std::unexpected(write_error(path));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

bool is_digest(const std::string& name) {
  return name.size() == 64 &&
         std::ranges::all_of(name, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

struct Kept {
  fs::path path;
  std::uint64_t bytes = 0;
  fs::file_time_type used;
};

std::vector<Kept> kept_in(const fs::path& folder) {
  std::vector<Kept> kept;
  std::error_code failed;
  for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
    if (!is_digest(entry->path().filename().string())) continue;
    std::error_code gone;
    const auto bytes = entry->file_size(gone);
    const auto used = entry->last_write_time(gone);
    if (!gone) kept.push_back({.path = entry->path(), .bytes = bytes, .used = used});
  }
  return kept;
}

}  // namespace

FileCache::FileCache(fs::path folder, std::uint64_t budget_bytes)
    : folder_(std::move(folder)), budget_bytes_(budget_bytes) {
  sweep_partial_downloads(folder_);
}

Result<CachedFile> FileCache::get(Caller& registry, const StoredFile& file) const {
  const fs::path path = folder_ / to_hex(file.digest);
  std::error_code failed;
  fs::create_directories(folder_, failed);
  if (failed) {
    return fail(Code::kInternal, std::format("cannot make the folder {}: {}", folder_.string(), failed.message()));
  }
  const auto in_use = [&](Descriptor held) {
    return CachedFile(path, std::make_shared<const Descriptor>(std::move(held)));
  };
  while (true) {
    // A shared lock keeps an eviction away; whoever holds the exclusive one is removing the file.
    if (Descriptor kept(::open(path.c_str(), O_RDONLY | O_CLOEXEC)); kept.get() >= 0) {
      if (::flock(kept.get(), LOCK_SH) == 0 && is_at(kept, path)) {
        if (is_whole(kept, file)) {
          ::futimens(kept.get(), nullptr);
          return in_use(std::move(kept));
        }
        ::unlink(path.c_str());
      }
    }
    make_room(file.size_bytes);
    const fs::path part = path.string() + "." + random_hex(64) + ".part";
    Descriptor out(::open(part.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (out.get() < 0) return std::unexpected(write_error(part));
    auto done =
        download_to(registry, file, [&](std::span<const std::byte> bytes) { return write_all(out, bytes, part); });
    if (done && ::flock(out.get(), LOCK_SH) != 0) done = std::unexpected(write_error(part));
    // Not rename: a file that came meanwhile may be in use under this name.
    const bool linked = done && ::link(part.c_str(), path.c_str()) == 0;
    const bool other_came = done && !linked && errno == EEXIST;
    if (done && !linked && !other_came) done = std::unexpected(write_error(path));
    ::unlink(part.c_str());
    if (!done) return std::unexpected(done.error());
    if (other_came) continue;
    make_room();
    return in_use(std::move(out));
  }
}

void FileCache::make_room(std::uint64_t more_bytes) const {
  auto kept = kept_in(folder_);
  std::uint64_t bytes = more_bytes;
  for (const Kept& file : kept) bytes += file.bytes;
  if (bytes <= budget_bytes_) return;
  std::ranges::sort(kept, {}, &Kept::used);
  for (const Kept& file : kept) {
    if (bytes <= budget_bytes_) return;
    const Descriptor open(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC));
    if (open.get() < 0 || ::flock(open.get(), LOCK_EX | LOCK_NB) != 0 || !is_at(open, file.path)) continue;
    if (::unlink(file.path.c_str()) != 0) continue;
    bytes -= file.bytes;
    spdlog::info("cached file evicted path={} bytes={}", log_value(file.path.string()), file.bytes);
  }
}

std::uint64_t FileCache::bytes() const {
  std::uint64_t bytes = 0;
  for (const Kept& file : kept_in(folder_)) bytes += file.bytes;
  return bytes;
}

Result<fs::path> download_to_cache(Caller& registry, const StoredFile& file, const fs::path& folder) {
  auto kept = FileCache(folder, std::numeric_limits<std::uint64_t>::max()).get(registry, file);
  if (!kept) return std::unexpected(std::move(kept).error());
  return kept->path();
}

void sweep_partial_downloads(const fs::path& folder) {
  constexpr auto kIdle = std::chrono::minutes(10);  // a download that goes on writes more often
  std::error_code failed;
  const auto oldest = fs::file_time_type::clock::now() - kIdle;
  for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
    std::error_code ignored;
    if (entry->path().extension() != ".part") continue;
    if (const auto written = entry->last_write_time(ignored); !ignored && written < oldest)
      fs::remove(entry->path(), ignored);
  }
}

}  // namespace slipway

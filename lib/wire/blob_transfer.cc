#include "lib/wire/blob_transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>

#include "lib/base/random_id.h"
#include "lib/base/sha256.h"

namespace slipway {
namespace {

constexpr Caller::Options kRead{
    .deadline = std::chrono::seconds(60), .repeat_after = std::chrono::seconds(3), .request_id = {}};
constexpr Caller::Options kPart{.deadline = std::chrono::seconds(60), .repeat_after = {}, .request_id = {}};

// Calls in flight, at most kUploadWindow of them, and the first thing that went wrong.
class Window {
 public:
  // False once something has failed.
  bool enter() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_ < kUploadWindow; });
    ++open_;
    return result_.has_value();
  }
  void leave(const Result<Message>& answer) {
    const std::lock_guard lock(mutex_);
    if (!answer && result_) result_ = std::unexpected(answer.error());
    --open_;
    changed_.notify_all();
  }
  Result<void> drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_ == 0; });
    return result_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t open_ = 0;
  Result<void> result_;
};

Result<std::vector<Frame>> read_chunk(Caller& registry, const Digest& digest) {
  auto answer = registry.call_and_wait(msg::GetChunk{digest}, {}, kRead);
  if (!answer) return std::unexpected(answer.error());
  if (answer->payload.size() != 1 || sha256(answer->payload.front().bytes()) != digest) {
    return fail(Code::kDataLoss, std::format("chunk {} came damaged", to_hex(digest)));
  }
  return std::move(answer->payload);
}

// Hands the file's chunks in order to `take`. Errors also when their sum is not the file.
template <class Take>
Result<void> each_chunk(Caller& registry, const StoredFile& file, Take take) {
  Sha256 whole;
  std::uint64_t size = 0;
  for (const Digest& digest : file.chunks) {
    auto chunk = read_chunk(registry, digest);
    if (!chunk) return std::unexpected(chunk.error());
    const auto bytes = chunk->front().bytes();
    whole.update(bytes);
    size += bytes.size();
    if (auto taken = take(bytes); !taken) return taken;
  }
  if (size != file.size_bytes || whole.finish() != file.digest) {
    return fail(Code::kDataLoss, std::format("file {} of {} bytes is not what its record says", file.name, size));
  }
  return {};
}

// Not a "later": nothing says that this machine will ever be able to.
Error write_error(const std::filesystem::path& path) {
  return {.code = Code::kInternal,
          .message = std::format("cannot write {}: {}", path.string(), std::strerror(errno)),
          .path = {}};
}

bool is_whole(const std::filesystem::path& path, const StoredFile& file) {
  std::error_code failed;
  if (std::filesystem::file_size(path, failed) != file.size_bytes || failed) return false;
  std::ifstream in(path, std::ios::binary);
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    hash.update(std::string_view(buffer.data(), static_cast<std::size_t>(in.gcount())));
  }
  return hash.finish() == file.digest;
}

}  // namespace

Result<UploadId> open_upload(Caller& registry) {
  auto opened = Caller::as<msg::UploadOpened>(registry.call_and_wait(msg::OpenUpload{}, {}, kPart));
  return opened.transform([](const msg::UploadOpened& answer) { return answer.upload; });
}

Result<void> upload_file(Caller& registry, const UploadId& upload, const std::string& name,
                         std::span<const std::byte> bytes) {
  const auto window = std::make_shared<Window>();
  std::size_t offset = 0;
  do {
    const std::size_t size = std::min(kUploadPartBytes, bytes.size() - offset);
    const msg::UploadPart part{.upload = upload,
                               .file = name,
                               .offset_bytes = offset,
                               .last = offset + size == bytes.size(),
                               .decompress = false};
    const bool going = window->enter();
    if (!going) {
      window->leave(Message{});
      break;
    }
    std::vector<Frame> payload;
    payload.push_back(Frame::copy(bytes.subspan(offset, size)));
    registry.call(part, std::move(payload), kPart, [window](const Result<Message>& answer) { window->leave(answer); });
    offset += size;
  } while (offset < bytes.size());
  return window->drain();
}

Result<std::vector<std::byte>> download(Caller& registry, const StoredFile& file) {
  std::vector<std::byte> bytes;
  auto done = each_chunk(registry, file, [&](std::span<const std::byte> chunk) -> Result<void> {
    bytes.insert(bytes.end(), chunk.begin(), chunk.end());
    return {};
  });
  if (!done) return std::unexpected(done.error());
  return bytes;
}

Result<std::filesystem::path> download_to_cache(Caller& registry, const StoredFile& file,
                                                const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / to_hex(file.digest);
  if (is_whole(path, file)) return path;
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) {
    return fail(Code::kInternal, std::format("cannot make the folder {}: {}", folder.string(), failed.message()));
  }
  const std::filesystem::path part = path.string() + "." + random_hex(64) + ".part";
  const int out = ::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (out < 0) return std::unexpected(write_error(part));
  auto done = each_chunk(registry, file, [&](std::span<const std::byte> chunk) -> Result<void> {
    for (std::size_t at = 0; at < chunk.size();) {
      const auto written = ::write(out, chunk.data() + at, chunk.size() - at);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return std::unexpected(write_error(part));
      at += static_cast<std::size_t>(written);
    }
    return {};
  });
  ::close(out);
  if (done && ::rename(part.c_str(), path.c_str()) != 0) done = std::unexpected(write_error(path));
  if (!done) {
    ::unlink(part.c_str());
    return std::unexpected(done.error());
  }
  return path;
}

void sweep_partial_downloads(const std::filesystem::path& folder) {
  constexpr auto kIdle = std::chrono::minutes(10);  // a download that goes on writes more often
  std::error_code failed;
  const auto oldest = std::filesystem::file_time_type::clock::now() - kIdle;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code ignored;
    if (entry->path().extension() != ".part") continue;
    if (const auto written = entry->last_write_time(ignored); !ignored && written < oldest)
      std::filesystem::remove(entry->path(), ignored);
  }
}

}  // namespace slipway

#include "services/registry/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <format>

namespace slipway::registry {

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
  return fail(Code::kInternal, std::format("{}: {}", what, std::strerror(error)));
}

Result<void> write_synced(const std::filesystem::path& path, std::span<const std::byte> bytes,
                          const std::string& what) {
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (!file.is_open()) return io_error("cannot create " + what, errno);
  while (!bytes.empty()) {
    const auto written = ::write(file.fd(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return io_error("cannot write " + what, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  if (::fsync(file.fd()) != 0) return io_error("cannot sync " + what, errno);
  return {};
}

Result<void> sync_folder(const std::filesystem::path& folder, const std::string& what) {
  const File file(folder, O_RDONLY | O_DIRECTORY);
  if (!file.is_open() || ::fsync(file.fd()) != 0) return io_error("cannot sync " + what, errno);
  return {};
}

}  // namespace slipway::registry

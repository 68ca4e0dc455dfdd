#include "services/inferencer/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <format>
#include <utility>

namespace slipway::inferencer {

Result<MappedFile> MappedFile::open(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(Code::kNotFound, std::format("cannot open {}", file.string()));
  struct stat status{};
  void* at = MAP_FAILED;
  const bool sized = fstat(fd, &status) == 0;
  if (sized && status.st_size > 0)
    at = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  ::close(fd);
  if (sized && status.st_size == 0) return fail(Code::kInvalidArgument, "not a TorchScript file: it is empty");
  if (at == MAP_FAILED) return fail(Code::kInternal, std::format("cannot map {}", file.string()));
  return MappedFile(at, static_cast<std::size_t>(status.st_size));
}

MappedFile::MappedFile(MappedFile&& other) noexcept : at_(std::exchange(other.at_, nullptr)), size_(other.size_) {}

MappedFile::~MappedFile() {
  if (at_ != nullptr) munmap(at_, size_);
}

}  // namespace slipway::inferencer

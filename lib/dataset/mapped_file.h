// A file's bytes mapped for reading: they take page cache, which the system may take back, and no memory of the
// process.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "lib/base/error.h"

namespace slipway::dataset {

// Life: the mapping ends with the object; the file may be removed before, but must not be cut short. Threads: any.
class MappedFile {
 public:
  // Errors, naming the file: kDataLoss (cannot be opened or mapped).
  [[nodiscard]] static Result<std::shared_ptr<const MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  const std::span<const std::byte> bytes_;
};

}  // namespace slipway::dataset

// A file's bytes, mapped for reading.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "lib/base/error.h"

namespace slipway::inferencer {

class MappedFile {
 public:
  // Errors: kNotFound (cannot be opened), kInvalidArgument (empty), kInternal (cannot be mapped).
  [[nodiscard]] static Result<MappedFile> open(const std::filesystem::path& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();
  [[nodiscard]] std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(at_), size_}; }

 private:
  MappedFile(void* at, std::size_t size) : at_(at), size_(size) {}
  void* at_;
  std::size_t size_;
};

}  // namespace slipway::inferencer

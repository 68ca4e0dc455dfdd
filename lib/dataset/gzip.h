// Gunzip, piece by piece: RFC 1952 files of one or more members, every checksum checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "lib/base/error.h"

namespace slipway::dataset {

// Whether a file that begins with `bytes` is gzip; two bytes are enough to tell.
[[nodiscard]] bool is_gzip(std::span<const std::byte> bytes);

// Takes the compressed bytes in order, in pieces of any size, and hands on what is in them. After an error the object
// is spent. Threads: not thread-safe.
class Gunzip {
 public:
  // Gets the decompressed bytes in order, at most 64 KiB at a time; they live until it returns. Its error ends the
  // push.
  using Sink = std::function<Result<void>(std::span<const std::byte>)>;

  explicit Gunzip(std::uint64_t max_output_bytes = std::numeric_limits<std::uint64_t>::max());
  ~Gunzip();
  Gunzip(Gunzip&&) noexcept;
  Gunzip& operator=(Gunzip&&) noexcept;

  // Errors: kInvalidArgument (not gzip, damaged, a wrong checksum, other bytes after the last member), kTooLarge (more
  // than max_output_bytes come out), and the sink's own.
  [[nodiscard]] Result<void> push(std::span<const std::byte> compressed, const Sink& sink);

  // Says that the input has ended. Errors: kInvalidArgument (in the middle of a member, or nothing came).
  [[nodiscard]] Result<void> finish() const;

  // Decompressed bytes handed on so far.
  [[nodiscard]] std::uint64_t output_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The content of the file at `path`, decompressed when it is gzip. Errors, naming the file: kNotFound (cannot be
// opened), kUnavailable (cannot be read), kInvalidArgument (damaged gzip), kTooLarge (content over `max_bytes`).
[[nodiscard]] Result<std::vector<std::byte>> read_maybe_gzip_file(
    const std::filesystem::path& path, std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max());

}  // namespace slipway::dataset

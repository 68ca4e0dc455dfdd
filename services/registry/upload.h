// One upload: parts in order to files of chunks. No thread, clock or disk in here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/sha256.h"
#include "lib/dataset/gzip.h"
#include "schema/limits.h"
#include "schema/messages.h"

namespace slipway::registry {

inline constexpr std::size_t kMaxPartBytes = kUploadPartBytes;
inline constexpr std::size_t kMaxUploadFiles = 1'000;

// Files come one after the other, each from its start to its end; only the last, open one holds bytes (at most a
// chunk). Threads: not thread-safe, but for note_refused().
class Upload {
 public:
  // Stores a chunk; when it returns the chunk is durable.
  using PutChunk = std::function<Result<void>(const Digest& digest, std::span<const std::byte> bytes)>;

  Upload(std::uint64_t max_bytes, PutChunk put_chunk);

  // Takes a part; one that has been taken already is recognised by its offset. A part that is out of order changes
  // nothing and may come again; after any other error the upload is spent and answers that error again. Errors:
  // kInvalidArgument (a gap, another file while one is open, a file twice, a bad name, damaged gzip), kOverloaded (a
  // gap or another file after a part was refused, which is to come again first), kTooLarge (a part over kMaxPartBytes,
  // all files over max_bytes, too many files), and what put_chunk says.
  [[nodiscard]] Result<void> add(const msg::UploadPart& part, std::span<const std::byte> bytes);

  // A part never came to add(), because too many wait: those sent behind it are to be sent again as well. Any thread.
  void note_refused() { refused_ = true; }

  // The closed files in the order of their coming. Errors: kInvalidArgument (none, or one is still open), and the one
  // that spent the upload.
  [[nodiscard]] Result<std::vector<StoredFile>> files() const;

  // What the files are as a data set, kept for repeats of the commit; null: not known, or a part has come since.
  [[nodiscard]] const Result<Dataset>* described() const { return described_ ? &*described_ : nullptr; }
  void set_described(Result<Dataset> described) { described_ = std::move(described); }

 private:
  struct Open {
    std::string sent_name;
    std::uint64_t received_bytes = 0;  // as sent
    bool decompress = false;
    std::vector<std::byte> head;  // until it can be told whether it is gzip
    std::unique_ptr<dataset::Gunzip> gunzip;
    bool plain = false;
    Sha256 whole;
    std::vector<std::byte> chunk;
    StoredFile file;
  };
  struct Closed {
    std::string sent_name;
    std::uint64_t sent_bytes;
  };

  [[nodiscard]] std::unexpected<Error> out_of_order(std::string message) const;
  [[nodiscard]] Result<void> begin(const msg::UploadPart& part);
  [[nodiscard]] Result<void> take(std::span<const std::byte> bytes, bool last);
  [[nodiscard]] Result<void> store(std::span<const std::byte> content);
  [[nodiscard]] Result<void> flush_chunk();
  [[nodiscard]] Result<void> end();

  const std::uint64_t max_bytes_;
  const PutChunk put_chunk_;
  std::atomic<bool> refused_{false};
  std::uint64_t total_bytes_ = 0;  // content of all files
  std::optional<Open> open_;
  std::vector<Closed> closed_;
  std::vector<StoredFile> files_;
  std::optional<Error> spent_;
  std::optional<Result<Dataset>> described_;
};

}  // namespace slipway::registry

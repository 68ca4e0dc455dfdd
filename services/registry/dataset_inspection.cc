#include "services/registry/dataset_inspection.h"

#include <algorithm>
#include <format>
#include <memory>
#include <span>

#include "lib/dataset/inspect.h"

namespace slipway::registry {
namespace {

// The bytes of a stored file, chunk by chunk, for as long as somebody wants them.
class ChunkReader : public dataset::ByteReader {
 public:
  ChunkReader(const ChunkStore& store, std::vector<Digest> chunks, GoOn go_on)
      : store_(store), chunks_(std::move(chunks)), go_on_(std::move(go_on)) {}
  Result<std::span<const std::byte>> next() override {
    if (auto wanted = go_on_(); !wanted) return std::unexpected(std::move(wanted).error());
    if (at_ == chunks_.size()) return std::span<const std::byte>{};
    auto bytes = store_.get(chunks_[at_++]);
    if (!bytes) return std::unexpected(std::move(bytes).error());
    held_ = std::move(*bytes);
    return held_;
  }

 private:
  const ChunkStore& store_;
  const std::vector<Digest> chunks_;
  const GoOn go_on_;
  std::size_t at_ = 0;
  std::vector<std::byte> held_;
};

}  // namespace

Result<Dataset> inspect_files(const ChunkStore& store, const std::vector<StoredFile>& files, const GoOn& go_on) {
  std::vector<dataset::InputFile> inputs;
  for (const StoredFile& file : files) {
    inputs.push_back(
        {.name = file.name, .bytes = std::make_unique<ChunkReader>(store, file.chunks, go_on), .digest = file.digest});
  }
  auto described = dataset::inspect(std::move(inputs));
  if (!described) return described;
  for (StoredFile& file : described->files) {
    const auto stored = std::ranges::find_if(files, [&](const StoredFile& candidate) {
      return candidate.digest == file.digest && candidate.size_bytes == file.size_bytes;
    });
    if (stored == files.end()) return fail(Code::kInternal, std::format("'{}' was not among the upload", file.name));
    file.chunks = stored->chunks;
  }
  return described;
}

bool is_lasting(const Result<Dataset>& found) {
  if (found) return true;
  const Code code = found.error().code;
  return code == Code::kInvalidArgument || code == Code::kUnsupported || code == Code::kTooLarge;
}

}  // namespace slipway::registry

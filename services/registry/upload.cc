#include "services/registry/upload.h"

#include <algorithm>
#include <format>

#include "services/registry/chunk_store.h"
#include "services/registry/names.h"

namespace slipway::registry {

Upload::Upload(std::uint64_t max_bytes, PutChunk put_chunk) : max_bytes_(max_bytes), put_chunk_(std::move(put_chunk)) {}

Result<void> Upload::add(const msg::UploadPart& part, std::span<const std::byte> bytes) {
  described_.reset();
  if (spent_) return std::unexpected(*spent_);
  if (bytes.size() > kMaxPartBytes) {
    return fail(Code::kTooLarge, std::format("a part of {} bytes, at most {} are taken", bytes.size(), kMaxPartBytes));
  }
  const auto closed = std::ranges::find(closed_, part.file, &Closed::sent_name);
  if (closed != closed_.end()) {
    if (part.offset_bytes + bytes.size() <= closed->sent_bytes) return {};
    return fail(Code::kInvalidArgument, std::format("'{}' has ended after {} bytes, a part at {} came", part.file,
                                                    closed->sent_bytes, part.offset_bytes));
  }
  if (open_ && open_->sent_name != part.file) {
    return out_of_order(std::format("a part of '{}' came while '{}' is open", part.file, open_->sent_name));
  }
  const std::uint64_t received = open_ ? open_->received_bytes : 0;
  if (open_ && !part.last && part.offset_bytes + bytes.size() <= received) return {};
  if (part.offset_bytes != received) {
    return out_of_order(
        std::format("a part of '{}' at byte {}, wanted the one at {}", part.file, part.offset_bytes, received));
  }
  if (!open_) {
    if (auto begun = begin(part); !begun) return begun;
  }
  open_->received_bytes += bytes.size();
  auto taken = take(bytes, part.last);
  if (taken && part.last) taken = end();
  if (!taken) {
    spent_ = taken.error();
    spent_->message = std::format("{}: {}", part.file, spent_->message);
    open_.reset();
    return std::unexpected(*spent_);
  }
  return {};
}

std::unexpected<Error> Upload::out_of_order(std::string message) const {
  if (!refused_) return fail(Code::kInvalidArgument, std::move(message));
  return std::unexpected(Error{.code = Code::kOverloaded,
                               .message = "an earlier part was refused and is to be sent first: " + message,
                               .path = {},
                               .retry_after = std::chrono::milliseconds(200)});
}

Result<void> Upload::begin(const msg::UploadPart& part) {
  if (part.file.empty()) return fail(Code::kInvalidArgument, "a file without a name");
  if (auto plain = check_text("a file's name", part.file, 255); !plain) return plain;
  if (files_.size() == kMaxUploadFiles) {
    return fail(Code::kTooLarge, std::format("more than {} files in one upload", kMaxUploadFiles));
  }
  std::string name = part.file;
  if (part.decompress && name.ends_with(".gz") && name.size() > 3) name.resize(name.size() - 3);
  if (std::ranges::contains(files_, name, &StoredFile::name)) {
    return fail(Code::kInvalidArgument, std::format("'{}' came twice", name));
  }
  open_.emplace();
  open_->sent_name = part.file;
  open_->decompress = part.decompress;
  open_->file.name = std::move(name);
  return {};
}

Result<void> Upload::take(std::span<const std::byte> bytes, bool last) {
  if (open_->decompress && !open_->gunzip && !open_->plain) {
    open_->head.insert(open_->head.end(), bytes.begin(), bytes.end());
    if (open_->head.size() < 2 && !last) return {};
    if (dataset::is_gzip(open_->head)) open_->gunzip = std::make_unique<dataset::Gunzip>(max_bytes_ - total_bytes_);
    open_->plain = !open_->gunzip;
    const auto head = std::exchange(open_->head, {});
    return take(head, last);
  }
  if (!open_->gunzip) return store(bytes);
  return open_->gunzip->push(bytes, [this](std::span<const std::byte> content) { return store(content); });
}

Result<void> Upload::store(std::span<const std::byte> content) {
  if (content.size() > max_bytes_ - total_bytes_) {
    return fail(Code::kTooLarge, std::format("the upload has more than {} bytes, which is the limit", max_bytes_));
  }
  total_bytes_ += content.size();
  open_->file.size_bytes += content.size();
  open_->whole.update(content);
  while (!content.empty()) {
    const auto piece = content.first(std::min(content.size(), kChunkBytes - open_->chunk.size()));
    open_->chunk.insert(open_->chunk.end(), piece.begin(), piece.end());
    content = content.subspan(piece.size());
    if (open_->chunk.size() < kChunkBytes) continue;
    if (auto flushed = flush_chunk(); !flushed) return flushed;
  }
  return {};
}

Result<void> Upload::flush_chunk() {
  const Digest digest = sha256(open_->chunk);
  if (auto put = put_chunk_(digest, open_->chunk); !put) return put;
  open_->file.chunks.push_back(digest);
  open_->chunk.clear();
  return {};
}

Result<void> Upload::end() {
  if (open_->gunzip) {
    if (auto whole = open_->gunzip->finish(); !whole) return whole;
  }
  if (!open_->chunk.empty()) {
    if (auto flushed = flush_chunk(); !flushed) return flushed;
  }
  open_->file.digest = open_->whole.finish();
  closed_.push_back({.sent_name = open_->sent_name, .sent_bytes = open_->received_bytes});
  files_.push_back(std::move(open_->file));
  open_.reset();
  return {};
}

Result<std::vector<StoredFile>> Upload::files() const {
  if (spent_) return std::unexpected(*spent_);
  if (open_) {
    return fail(Code::kInvalidArgument,
                std::format("'{}' has not ended: {} bytes came so far", open_->sent_name, open_->received_bytes));
  }
  if (files_.empty()) return fail(Code::kInvalidArgument, "the upload has no files");
  return files_;
}

}  // namespace slipway::registry

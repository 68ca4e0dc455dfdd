#include "services/registry/upload_table.h"

#include <algorithm>
#include <format>

#include "lib/base/random_id.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::ptrdiff_t kFew = 2;  // open uploads of a trainer: a checkpoint's, and one whose answer was lost

}  // namespace

Result<UploadId> UploadTable::open(TimePoint now, const std::string& owner) {
  const UploadId id(random_hex(128));
  auto held = std::make_shared<DigestSet>();
  auto upload =
      std::make_shared<Upload>(limits_.max_bytes, [this, held](const Digest& digest, std::span<const std::byte> bytes) {
        {
          // Before it is there, so that no sweep can come between.
          const std::lock_guard lock(mutex_);
          held->insert(digest);
        }
        return chunks_.put(digest, bytes);
      });

  const std::lock_guard lock(mutex_);
  const auto open = std::ranges::count_if(entries_, [](const auto& entry) { return !entry.second.committed; });
  const auto own = std::ranges::count_if(
      entries_, [&](const auto& entry) { return !entry.second.committed && entry.second.owner == owner; });
  const std::size_t limit = own < kFew ? limits_.max_open : limits_.max_open - limits_.max_open / 4;
  if (static_cast<std::size_t>(open) >= limit) {
    return std::unexpected(
        Error{.code = Code::kOverloaded,
              .message = std::format("{} uploads are open, {} of them yours, which is the limit", open, own),
              .path = {},
              .retry_after = std::chrono::seconds(1)});
  }
  entries_.emplace(id, Entry{.upload = std::move(upload), .chunks = std::move(held), .owner = owner, .last_used = now});
  return id;
}

Result<std::shared_ptr<Upload>> UploadTable::use(const UploadId& id, TimePoint now) {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.find(id);
  if (entry == entries_.end()) {
    return fail(Code::kNotFound, "there is no such upload: it was dropped, or the registry has been started again");
  }
  entry->second.last_used = now;
  return entry->second.upload;
}

void UploadTable::set_committed(const UploadId& id) {
  const std::lock_guard lock(mutex_);
  if (const auto entry = entries_.find(id); entry != entries_.end()) entry->second.committed = true;
}

void UploadTable::drop(const UploadId& id) {
  const std::lock_guard lock(mutex_);
  entries_.erase(id);
}

std::size_t UploadTable::drop_idle(TimePoint now) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(entries_, [&](const auto& item) {
    return item.second.upload.use_count() == 1 && now - item.second.last_used >= limits_.idle;
  });
}

void UploadTable::add_chunks(DigestSet& chunks) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) chunks.insert(entry.chunks->begin(), entry.chunks->end());
}

bool UploadTable::contains(const UploadId& id) const {
  const std::lock_guard lock(mutex_);
  return entries_.contains(id);
}

std::size_t UploadTable::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace slipway::registry

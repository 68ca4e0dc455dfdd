#include "services/registry/upload_table.h"

#include <algorithm>
#include <format>

#include "lib/base/random_id.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::ptrdiff_t kFew = 4;  // open uploads of a trainer: a checkpoint's or two, and some that were lost
constexpr auto kMissedKnock = std::chrono::milliseconds(2'500);  // without being told: he can be reached again
constexpr std::size_t kShortestId = 32;                          // of all releases

bool is_id(std::string_view text) {
  return text.size() >= kShortestId &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

UploadTable::UploadTable(UploadLimits limits, ChunkStore& chunks)
    : limits_(limits), start_(random_hex(64)), chunks_(chunks) {}

Result<UploadId> UploadTable::open(TimePoint now, const std::string& owner) {
  const UploadId id(start_ + random_hex(128));
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
  const auto open = std::ranges::count_if(entries_, [](const auto& entry) { return entry.second.is_open(); });
  const auto own = std::ranges::count_if(
      entries_, [&](const auto& entry) { return entry.second.is_open() && entry.second.owner == owner; });
  const std::size_t limit = own < kFew ? limits_.max_open_of_all : limits_.max_open;
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
  if (entry == entries_.end() || entry->second.dropped) {
    if (!is_id(id.text())) return fail(Code::kNotFound, "there is no such upload: this is no upload's id");
    // Without a time to come again: the same upload will never be taken.
    return fail(Code::kUnavailable, id.text().starts_with(start_)
                                        ? "the upload was dropped: send it again"
                                        : "the registry has been started since the upload began: send it again");
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
  if (const auto entry = entries_.find(id); entry != entries_.end()) entry->second.dropped = true;
  drop_unused();
}

// Under the lock: use() alone gives out pointers, so that a count of one stays one.
void UploadTable::drop_unused() {
  std::erase_if(entries_, [](const auto& item) { return item.second.dropped && item.second.upload.use_count() == 1; });
}

std::size_t UploadTable::drop_idle(TimePoint now) {
  const std::lock_guard lock(mutex_);
  drop_unused();
  return std::erase_if(entries_, [&](const auto& item) {
    return item.second.upload.use_count() == 1 && now - item.second.last_used >= limits_.idle;
  });
}

std::vector<std::string> UploadTable::owners() const {
  std::vector<std::string> found;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) {
    if (entry.is_open() && !std::ranges::contains(found, entry.owner)) found.push_back(entry.owner);
  }
  return found;
}

void UploadTable::on_unreachable(const std::string& owner, TimePoint now) {
  const std::lock_guard lock(mutex_);
  const bool owns = std::ranges::any_of(
      entries_, [&](const auto& item) { return item.second.is_open() && item.second.owner == owner; });
  if (!owns) return;
  const auto [found, first] = unreachable_.try_emplace(owner, Unreachable{.since = now, .last = now});
  if (now - found->second.last > kMissedKnock) found->second.since = now;
  found->second.last = now;
}

std::size_t UploadTable::drop_gone(TimePoint now) {
  std::size_t dropped = 0;
  const std::lock_guard lock(mutex_);
  for (auto owner = unreachable_.begin(); owner != unreachable_.end();) {
    const auto& [since, last] = owner->second;
    const bool gone = last - since >= limits_.gone;
    if (gone) {
      for (auto& [id, entry] : entries_) {
        if (!entry.is_open() || entry.owner != owner->first) continue;
        entry.dropped = true;
        ++dropped;
      }
    }
    owner = gone || now - last > kMissedKnock ? unreachable_.erase(owner) : std::next(owner);
  }
  drop_unused();
  return dropped;
}

void UploadTable::add_chunks(DigestSet& chunks) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) chunks.insert(entry.chunks->begin(), entry.chunks->end());
}

std::size_t UploadTable::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace slipway::registry

#include "services/inferencer/version_table.h"

#include <algorithm>
#include <utility>

namespace slipway::inferencer {

VersionTable::Entry* VersionTable::find(const msg::VersionKey& key) const {
  const auto line = lines_.find(key.model);
  if (line == lines_.end()) return nullptr;
  const auto entry = line->second.versions.find(key.version);
  // The table's own, which a const map hands out as const.
  return entry == line->second.versions.end() ? nullptr : const_cast<Entry*>(&entry->second);
}

VersionTable::Entry& VersionTable::entry_of(const msg::VersionKey& key) {
  if (Entry* known = find(key)) return *known;
  const auto line = lines_.try_emplace(key.model).first;
  Entry& entry = line->second.versions[key.version];
  entry.model = &line->first;
  entry.line = &line->second;
  entry.version = key.version;
  return entry;
}

void VersionTable::forget(Entry& entry) {
  const auto line = lines_.find(*entry.model);
  line->second.versions.erase(entry.version);
  if (line->second.versions.empty()) lines_.erase(line);
}

// Puts an entry where it waits to be loaded, or takes it from there.
void VersionTable::refile(Entry& entry) {
  ++looked_at_;
  asked_.erase({entry.asked_at, &entry});
  if (entry.in_wanted) wanted_.erase(*std::exchange(entry.in_wanted, std::nullopt));
  const bool waits = entry.phase == Phase::kAbsent || (entry.phase == Phase::kFailed && !entry.in_retries);
  if (!waits) return;
  if (entry.asked) {
    asked_.emplace(entry.asked_at, &entry);
  } else if (entry.desired) {
    entry.in_wanted = wanted_.emplace(entry.used, &entry);
  } else {
    forget(entry);  // so that made-up numbers do not pile up
  }
}

void VersionTable::set_phase(Entry& entry, Phase phase) {
  ++looked_at_;
  if (entry.in_retries) retries_.erase(*std::exchange(entry.in_retries, std::nullopt));
  if (entry.phase == Phase::kReady && phase != Phase::kReady) {
    by_use_.erase(*std::exchange(entry.in_use, std::nullopt));
    bytes_ -= entry.bytes;
    leaving_.erase(&entry);
    entry.given_up = false;
    if (entry.desired) ++entry.line->desired_not_ready;
  }
  if (entry.phase != Phase::kReady && phase == Phase::kReady) {
    entry.in_use = by_use_.emplace(entry.used, &entry);
    bytes_ += entry.bytes;
    if (entry.superseded) leaving_.insert(&entry);
    if (entry.desired) --entry.line->desired_not_ready;
  }
  if (entry.phase == Phase::kLoading) loading_.erase(&entry);
  if (phase == Phase::kLoading) loading_.insert(&entry);
  entry.phase = phase;
}

void VersionTable::undesire(Entry& entry, TimePoint now, bool in_any_case) {
  ++looked_at_;
  if (!entry.desired && (!in_any_case || entry.superseded)) return;
  if (entry.desired && entry.phase != Phase::kReady) --entry.line->desired_not_ready;
  entry.desired = false;
  entry.superseded = now;
  if (entry.phase == Phase::kReady) leaving_.insert(&entry);
  refile(entry);
}

void VersionTable::set_desired(const std::string& model, const std::set<std::uint64_t>& versions, TimePoint now) {
  // Who takes over from a version that is in use will be in use itself.
  TimePoint used{};
  if (const auto line = lines_.find(model); line != lines_.end()) {
    for (const auto& [version, entry] : line->second.versions) used = std::max(used, entry.used);
  }
  for (const std::uint64_t version : versions) {
    Entry& entry = entry_of({model, version});
    ++looked_at_;
    if (entry.desired) continue;
    entry.desired = true;
    entry.superseded.reset();
    if (!entry.given_up) leaving_.erase(&entry);
    if (entry.phase != Phase::kReady) {
      ++entry.line->desired_not_ready;
      entry.used = used;
    }
    refile(entry);
  }
  if (const auto line = lines_.find(model); line != lines_.end()) {
    // Of those that are no longer desired, some are forgotten, and with the last one the line.
    std::vector<Entry*> others;
    for (auto& [version, entry] : line->second.versions) {
      if (!versions.contains(version)) others.push_back(&entry);
    }
    for (Entry* entry : others) {
      undesire(*entry, now, versions.empty());
    }
  }
}

void VersionTable::keep_only(const std::set<std::string>& models, TimePoint now) {
  std::vector<std::string> gone;
  for (const auto& [model, line] : lines_) {
    ++looked_at_;
    if (!models.contains(model)) gone.push_back(model);
  }
  for (const std::string& model : gone) set_desired(model, {}, now);
}

void VersionTable::use(Entry& entry, TimePoint now) {
  entry.used = std::max(entry.used, now);
  if (!entry.in_use) return;
  auto node = by_use_.extract(*entry.in_use);
  node.key() = entry.used;
  entry.in_use = by_use_.insert(by_use_.end(), std::move(node));
}

Result<bool> VersionTable::ask(const msg::VersionKey& key, TimePoint now) {
  ++looked_at_;
  Entry& entry = entry_of(key);
  use(entry, now);
  if (entry.phase == Phase::kReady && !entry.given_up) return true;
  if (entry.phase == Phase::kFailed && now < entry.retry_at) {
    Error error = entry.error;
    error.retry_after = std::chrono::ceil<std::chrono::milliseconds>(entry.retry_at - now);
    return std::unexpected(std::move(error));
  }
  if (entry.in_retries) retries_.erase(*std::exchange(entry.in_retries, std::nullopt));
  if (!entry.asked) {
    entry.asked = true;
    entry.asked_at = now;
    refile(entry);
  }
  return false;
}

bool VersionTable::over() const {
  return by_use_.size() > 1 && (by_use_.size() > limits_.max_loaded || bytes_ > limits_.max_bytes);
}

// Whether a version that nobody asked for may be loaded: it fits, or would if only versions went whose last use is
// older. One that was never loaded is taken to be as large as the others are on average.
bool VersionTable::has_room(const Entry& entry) const {
  std::size_t count = by_use_.size();
  std::int64_t bytes = bytes_;
  const bool unknown = entry.bytes == 0 && count > 0;
  const std::int64_t size = unknown ? bytes_ / static_cast<std::int64_t>(count) : entry.bytes;
  const auto fits = [&] {
    return count < limits_.max_loaded && bytes < limits_.max_bytes && size <= limits_.max_bytes - bytes;
  };
  for (auto oldest = by_use_.begin(); oldest != by_use_.end() && oldest->first < entry.used && !fits(); ++oldest) {
    ++looked_at_;
    --count;
    bytes -= oldest->second->bytes;
  }
  return fits();
}

VersionTable::Entry* VersionTable::next_wanted(bool untried) const {
  // Smaller ones behind many that do not fit are left until somebody asks.
  constexpr int kMostLookedAt = 16;
  int looks = 0;
  for (auto wanted = wanted_.begin(); wanted != wanted_.end() && looks < kMostLookedAt; ++wanted, ++looks) {
    ++looked_at_;
    Entry* const entry = wanted->second;
    if ((!untried || entry->failures == 0) && has_room(*entry)) return entry;
  }
  return nullptr;
}

std::optional<msg::VersionKey> VersionTable::next_load(TimePoint now) {
  while (!retries_.empty() && retries_.begin()->first <= now) {
    Entry& entry = *retries_.begin()->second;
    retries_.erase(*std::exchange(entry.in_retries, std::nullopt));
    refile(entry);
  }
  Entry* const chosen = asked_.empty() ? next_wanted(false) : asked_.begin()->second;
  if (chosen == nullptr) return std::nullopt;
  set_phase(*chosen, Phase::kLoading);
  refile(*chosen);
  return key_of(*chosen);
}

void VersionTable::loaded(const msg::VersionKey& key, std::int64_t bytes, TimePoint now) {
  Entry& entry = entry_of(key);
  if (entry.asked) entry.used = std::max(entry.used, now);
  entry.asked = false;
  entry.failures = 0;
  entry.bytes = bytes;
  set_phase(entry, Phase::kReady);
}

void VersionTable::failed(const msg::VersionKey& key, Error error, TimePoint now) {
  Entry& entry = entry_of(key);
  set_phase(entry, Phase::kFailed);
  entry.asked = false;
  const auto doubled = limits_.first_retry * (std::int64_t{1} << std::min(entry.failures, 20));
  entry.retry_at = now + std::min(doubled, limits_.longest_retry);
  ++entry.failures;
  entry.error = std::move(error);
  entry.in_retries = retries_.emplace(entry.retry_at, &entry);
}

void VersionTable::set_bytes(const msg::VersionKey& key, std::int64_t bytes) {
  Entry* const entry = find(key);
  if (entry == nullptr || entry->phase != Phase::kReady) return;
  bytes_ += bytes - entry->bytes;
  entry->bytes = bytes;
}

void VersionTable::give_up(const msg::VersionKey& key) {
  Entry* const entry = find(key);
  if (entry == nullptr || entry->phase != Phase::kReady) return;
  entry->given_up = true;
  leaving_.insert(entry);
}

bool VersionTable::is_superseded(const Entry& entry, TimePoint now) const {
  return entry.superseded && now >= std::max(*entry.superseded, entry.used) + limits_.linger &&
         entry.line->desired_not_ready == 0;
}

std::vector<msg::VersionKey> VersionTable::to_unload(TimePoint now) const {
  std::vector<msg::VersionKey> gone;
  for (const Entry* entry : leaving_) {
    ++looked_at_;
    if (entry->given_up || is_superseded(*entry, now)) gone.push_back(key_of(*entry));
  }
  std::ranges::sort(gone);
  if (!over()) return gone;
  for (auto item = by_use_.begin(); item != std::prev(by_use_.end()); ++item) {
    ++looked_at_;
    const Entry& entry = *item->second;
    if (!entry.given_up && !is_superseded(entry, now)) gone.push_back(key_of(entry));
  }
  return gone;
}

bool VersionTable::may_unload(const msg::VersionKey& key, TimePoint now) const {
  ++looked_at_;
  const Entry* const entry = find(key);
  if (entry == nullptr || entry->phase != Phase::kReady) return false;
  if (entry->given_up || is_superseded(*entry, now)) return true;
  return over() && *entry->in_use != std::prev(by_use_.end());
}

void VersionTable::unloaded(const msg::VersionKey& key) {
  Entry* const entry = find(key);
  if (entry == nullptr) return;
  set_phase(*entry, Phase::kAbsent);
  refile(*entry);
}

std::vector<msg::VersionKey> VersionTable::ready() const {
  std::vector<msg::VersionKey> keys;
  keys.reserve(by_use_.size());
  for (const auto& [used, entry] : by_use_) keys.push_back(key_of(*entry));
  std::ranges::sort(keys);
  return keys;
}

bool VersionTable::settled() const {
  const auto untried = [](const Entry* entry) { return entry->desired && entry->failures == 0; };
  return std::ranges::none_of(loading_, untried) &&
         std::ranges::none_of(asked_, [&](const auto& item) { return untried(item.second); }) &&
         next_wanted(true) == nullptr;
}

std::optional<VersionTable::TimePoint> VersionTable::next_wake() const {
  std::optional<TimePoint> next;
  const auto at_least = [&](TimePoint time) {
    if (!next || time < *next) next = time;
  };
  if (!retries_.empty()) at_least(retries_.begin()->first);
  for (const Entry* entry : leaving_) {
    ++looked_at_;
    if (entry->given_up) {
      at_least(TimePoint::min());
    } else if (entry->line->desired_not_ready == 0) {
      at_least(std::max(*entry->superseded, entry->used) + limits_.linger);
    }
  }
  return next;
}

bool RevisionWatch::missed(std::uint64_t revision) {
  const bool next = last_ && (revision == *last_ || revision == *last_ + 1);
  last_ = revision;
  return !next;
}

}  // namespace slipway::inferencer

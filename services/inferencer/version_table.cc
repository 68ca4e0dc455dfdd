#include "services/inferencer/version_table.h"

#include <algorithm>

namespace slipway::inferencer {

void VersionTable::undesire(Entry& entry, TimePoint now) {
  if (!entry.desired) return;
  entry.desired = false;
  entry.superseded = now;
  entry.used = std::max(entry.used, now);
}

void VersionTable::set_desired(const std::string& model, const std::set<std::uint64_t>& versions, TimePoint now) {
  for (auto& [key, entry] : entries_) {
    if (key.model == model && !versions.contains(key.version)) undesire(entry, now);
  }
  for (const std::uint64_t version : versions) {
    Entry& entry = entries_[{model, version}];
    entry.desired = true;
    entry.superseded.reset();
  }
}

void VersionTable::keep_only(const std::set<std::string>& models, TimePoint now) {
  for (auto& [key, entry] : entries_) {
    if (!models.contains(key.model)) undesire(entry, now);
  }
}

Result<bool> VersionTable::ask(const msg::VersionKey& key, TimePoint now) {
  Entry& entry = entries_[key];
  entry.used = now;
  if (entry.phase == Phase::kReady) return true;
  if (entry.phase == Phase::kFailed && now < entry.retry_at) {
    Error error = entry.error;
    error.retry_after = std::chrono::ceil<std::chrono::milliseconds>(entry.retry_at - now);
    return std::unexpected(std::move(error));
  }
  entry.asked = true;
  return false;
}

std::optional<msg::VersionKey> VersionTable::next_load(TimePoint now) {
  // A failed version that nobody wants any more is forgotten, so that made-up numbers do not pile up.
  std::erase_if(entries_, [&](const auto& item) {
    const Entry& entry = item.second;
    return !entry.desired && !entry.asked && now >= entry.retry_at &&
           (entry.phase == Phase::kFailed || entry.phase == Phase::kAbsent);
  });
  auto chosen = entries_.end();
  for (auto item = entries_.begin(); item != entries_.end(); ++item) {
    const Entry& entry = item->second;
    const bool waits = entry.phase == Phase::kAbsent || (entry.phase == Phase::kFailed && now >= entry.retry_at);
    if (!waits || !(entry.desired || entry.asked)) continue;
    if (entry.asked) {
      chosen = item;
      break;
    }
    if (chosen == entries_.end()) chosen = item;
  }
  if (chosen == entries_.end()) return std::nullopt;
  chosen->second.phase = Phase::kLoading;
  return chosen->first;
}

void VersionTable::loaded(const msg::VersionKey& key, TimePoint now) {
  Entry& entry = entries_[key];
  entry.phase = Phase::kReady;
  entry.asked = false;
  entry.failures = 0;
  entry.used = std::max(entry.used, now);
}

void VersionTable::failed(const msg::VersionKey& key, Error error, TimePoint now) {
  Entry& entry = entries_[key];
  entry.phase = Phase::kFailed;
  entry.asked = false;
  const auto doubled = limits_.first_retry * (std::int64_t{1} << std::min(entry.failures, 20));
  entry.retry_at = now + std::min(doubled, limits_.longest_retry);
  ++entry.failures;
  entry.error = std::move(error);
}

bool VersionTable::successors_ready(const std::string& model) const {
  return std::ranges::all_of(entries_, [&](const auto& item) {
    return item.first.model != model || !item.second.desired || item.second.phase == Phase::kReady;
  });
}

std::vector<msg::VersionKey> VersionTable::to_unload(TimePoint now) const {
  std::vector<msg::VersionKey> gone;
  std::vector<std::pair<TimePoint, msg::VersionKey>> others;  // not desired, by last use
  std::size_t ready = 0;
  std::size_t desired = 0;
  for (const auto& [key, entry] : entries_) {
    if (entry.desired) ++desired;
    if (entry.phase != Phase::kReady) continue;
    ++ready;
    if (entry.desired) continue;
    const bool superseded = entry.superseded && now >= std::max(*entry.superseded, entry.used) + limits_.linger;
    if (superseded && successors_ready(key.model)) {
      gone.push_back(key);
      --ready;
    } else if (!entry.superseded || successors_ready(key.model)) {
      others.emplace_back(entry.used, key);
    }
  }
  std::ranges::sort(others);
  const std::size_t room = std::max(limits_.max_loaded, desired + 1);
  for (auto other = others.begin(); other != others.end() && ready > room; ++other, --ready)
    gone.push_back(other->second);
  return gone;
}

void VersionTable::unloaded(const msg::VersionKey& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  if (found->second.desired) {
    found->second.phase = Phase::kAbsent;
  } else {
    entries_.erase(found);
  }
}

std::vector<msg::VersionKey> VersionTable::ready() const {
  std::vector<msg::VersionKey> keys;
  for (const auto& [key, entry] : entries_) {
    if (entry.phase == Phase::kReady) keys.push_back(key);
  }
  return keys;
}

bool VersionTable::settled() const {
  return std::ranges::all_of(entries_, [](const auto& item) {
    const Entry& entry = item.second;
    return !entry.desired || entry.phase == Phase::kReady || entry.failures > 0;
  });
}

std::optional<VersionTable::TimePoint> VersionTable::next_wake() const {
  std::optional<TimePoint> next;
  const auto at_least = [&](TimePoint time) {
    if (!next || time < *next) next = time;
  };
  for (const auto& [key, entry] : entries_) {
    if (entry.phase == Phase::kFailed) at_least(entry.retry_at);
    if (entry.phase == Phase::kReady && entry.superseded)
      at_least(std::max(*entry.superseded, entry.used) + limits_.linger);
  }
  return next;
}

bool RevisionWatch::missed(std::uint64_t revision) {
  const bool next = last_ && revision == *last_ + 1;
  last_ = revision;
  return !next;
}

}  // namespace slipway::inferencer

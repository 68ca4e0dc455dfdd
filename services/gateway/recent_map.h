// A map of bounded size that lets go of what was not looked up for the longest time. No lock in here.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace slipway::gateway {

// Threads: not thread-safe.
template <class Key, class Value>
class RecentMap {
 public:
  // Holds at most `most` entries, 1 at least.
  explicit RecentMap(std::size_t most) : most_(most) {}

  // The value, which counts as used now; nullptr: none. Valid until it is erased, set() may do so.
  [[nodiscard]] Value* find(const Key& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &found->second->second;
  }

  void set(Key key, Value value) {
    if (Value* known = find(key)) {
      *known = std::move(value);
      return;
    }
    entries_.emplace_front(key, std::move(value));
    places_.emplace(std::move(key), entries_.begin());
    if (places_.size() <= most_) return;
    places_.erase(entries_.back().first);
    entries_.pop_back();
  }

  void erase(const Key& key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return;
    entries_.erase(found->second);
    places_.erase(found);
  }

  template <class Visit>
  void each(Visit visit) {
    for (auto& [key, value] : entries_) visit(key, value);
  }

  template <class Wanted>
  void erase_if(Wanted wanted) {
    entries_.remove_if([&](const auto& entry) {
      if (!wanted(entry.first, entry.second)) return false;
      places_.erase(entry.first);
      return true;
    });
  }

  void clear() {
    places_.clear();
    entries_.clear();
  }

  [[nodiscard]] std::size_t size() const { return places_.size(); }

 private:
  using Entries = std::list<std::pair<Key, Value>>;

  const std::size_t most_;
  Entries entries_;  // last used first
  std::map<Key, typename Entries::iterator> places_;
};

}  // namespace slipway::gateway

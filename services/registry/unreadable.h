// The records that this release cannot read: damaged, or of a later release. They are set aside and never changed.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "schema/messages.h"

namespace slipway::registry {

// Whether this release has a word for it; every other number came from a later one.
[[nodiscard]] constexpr bool is_known(JobState state) { return state <= JobState::kCancelled; }
[[nodiscard]] constexpr bool is_known(DType dtype) { return dtype <= DType::kB8; }

// What in a record that could be decoded is of a later release; empty: nothing.
[[nodiscard]] std::string later_release(const Job& job);
[[nodiscard]] std::string later_release(const Dataset& dataset);
[[nodiscard]] std::string later_release(const Version& version);
template <class Record>
[[nodiscard]] std::string later_release(const Record&) {
  return {};
}

// Threads: thread-safe.
class UnreadableRecords {
 public:
  static constexpr std::size_t kMaxListed = 1'000;     // kept to be shown
  static constexpr std::size_t kMaxCounted = 100'000;  // told apart and counted; more than these are not

  // Keeps it, and logs it when it is new. `size_bytes` 0: it is missing.
  void note(const char* family, std::string_view key, std::size_t size_bytes, const std::string& reason);

  // It has been written anew, or deleted.
  void forget(const char* family, std::string_view key);

  // The first ones in order of family and key; `limit` 0: 100.
  [[nodiscard]] msg::Unreadable list(std::uint32_t limit) const;
  [[nodiscard]] std::size_t total() const;

 private:
  using Key = std::pair<std::string, std::string>;  // family, key
  struct Found {
    std::size_t size_bytes;
    std::string reason;
  };

  mutable std::mutex mutex_;
  std::map<Key, Found> listed_;
  std::unordered_set<std::size_t> counted_;  // hashes of keys
};

}  // namespace slipway::registry

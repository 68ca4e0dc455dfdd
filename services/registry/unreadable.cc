#include "services/registry/unreadable.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <format>
#include <functional>

#include "lib/base/log.h"

namespace slipway::registry {
namespace {

std::size_t hash_of(const char* family, std::string_view key) {
  return std::hash<std::string>()(std::format("{}/{}", family, key));
}

// Keys are ours, but what cannot be read may be anything.
std::string printable(std::string_view key) {
  std::string text;
  for (const char c : key) {
    if (c >= 0x20 && c < 0x7f && c != '\\') {
      text += c;
    } else {
      text += std::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text;
}

std::string unknown_dtype(const Signature& signature) {
  for (const auto* specs : {&signature.inputs, &signature.outputs}) {
    for (const TensorSpec& spec : *specs) {
      if (!is_known(spec.dtype)) return std::format("dtype {} of '{}'", static_cast<int>(spec.dtype), spec.name);
    }
  }
  return {};
}

}  // namespace

std::string later_release(const Job& job) {
  return is_known(job.state) ? std::string() : std::format("state {}", static_cast<int>(job.state));
}
std::string later_release(const Dataset& dataset) {
  return is_known(dataset.dtype) ? std::string() : std::format("dtype {}", static_cast<int>(dataset.dtype));
}
std::string later_release(const Version& version) { return unknown_dtype(version.signature); }

void UnreadableRecords::note(const char* family, std::string_view key, std::size_t size_bytes,
                             const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (counted_.size() >= kMaxCounted || !counted_.insert(hash_of(family, key)).second) return;
    if (listed_.size() < kMaxListed) {
      listed_.emplace(Key(family, key), Found{.size_bytes = size_bytes, .reason = reason});
    }
  }
  spdlog::error("record set aside family={} key={} bytes={} reason={}", family, log_value(printable(key)), size_bytes,
                log_value(reason));
}

void UnreadableRecords::forget(const char* family, std::string_view key) {
  const std::lock_guard lock(mutex_);
  if (counted_.empty() || counted_.erase(hash_of(family, key)) == 0) return;
  listed_.erase(Key(family, key));
}

msg::Unreadable UnreadableRecords::list(std::uint32_t limit) const {
  const std::lock_guard lock(mutex_);
  msg::Unreadable answer{.items = {}, .total = counted_.size()};
  const std::size_t wanted = limit == 0 ? 100 : std::min<std::size_t>(limit, kMaxListed);
  for (const auto& [key, found] : listed_) {
    if (answer.items.size() == wanted) break;
    answer.items.push_back(
        {.family = key.first, .key = printable(key.second), .size_bytes = found.size_bytes, .reason = found.reason});
  }
  return answer;
}

std::size_t UnreadableRecords::total() const {
  const std::lock_guard lock(mutex_);
  return counted_.size();
}

}  // namespace slipway::registry

// Fills the registry cache once, in the background, at a gateway's start.
#pragma once

#include <atomic>
#include <thread>

#include "services/gateway/registry_cache.h"

namespace slipway::gateway {

// A gateway that has just started knows no model: were the registry to go now, it would serve nothing. It is not ready
// before. Life: must not outlive the cache; once started, the registry's caller is closed before it is destroyed.
// Threads: any.
class CacheWarmer {
 public:
  explicit CacheWarmer(RegistryCache& cache) : cache_(cache) {}
  CacheWarmer(const CacheWarmer&) = delete;
  CacheWarmer& operator=(const CacheWarmer&) = delete;

  // To be called once.
  void start();

  // Whether the cache has been filled, once and for all.
  [[nodiscard]] bool done() const { return done_; }

 private:
  Task<void> warm(std::stop_token stopped);

  RegistryCache& cache_;
  asio::io_context context_{1};
  std::atomic<bool> done_{false};
  std::jthread thread_;  // last: it ends before what it works on
};

}  // namespace slipway::gateway

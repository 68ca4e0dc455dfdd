#include "lib/base/limit_watch.h"

#include <spdlog/spdlog.h>

#include <condition_variable>
#include <utility>

namespace slipway {

LimitWatch::LimitWatch(Changed changed, Read read, std::chrono::milliseconds every)
    : changed_(std::move(changed)),
      read_(std::move(read)),
      limits_(read_()),
      cores_("slipway_cpu_limit_cores", "Cores this process may use, by its affinity mask and its control groups.",
             [this] { return now().cores; }),
      memory_("slipway_memory_limit_bytes", "Memory this process may use, by the machine and its control groups.",
              [this] { return static_cast<double>(now().memory_bytes); }),
      thread_([this, every](const std::stop_token& stopped) { run(stopped, every); }) {
  spdlog::info("limits cores={} memory_bytes={} of={}", limits_.cores, limits_.memory_bytes,
               limits_.memory_is_own ? "group" : "machine");
}

ProcessLimits LimitWatch::now() const {
  const std::lock_guard lock(mutex_);
  return limits_;
}

void LimitWatch::run(const std::stop_token& stopped, std::chrono::milliseconds every) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  while (!wake.wait_for(lock, stopped, every, [&] { return stopped.stop_requested(); })) {
    const ProcessLimits found = read_();
    const ProcessLimits before = now();
    if (found == before) continue;
    {
      const std::lock_guard guard(mutex_);
      limits_ = found;
    }
    spdlog::info("limits changed cores={} cores_before={} memory_bytes={} memory_bytes_before={}", found.cores,
                 before.cores, found.memory_bytes, before.memory_bytes);
    changed_(found);
  }
}

}  // namespace slipway

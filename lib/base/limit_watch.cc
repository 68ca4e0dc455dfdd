#include "lib/base/limit_watch.h"

#include <spdlog/spdlog.h>

#include <condition_variable>
#include <utility>

#include "lib/base/log.h"

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

void LimitWatch::tell_if_changed(ProcessLimits& told) {
  const ProcessLimits found = read_();
  if (found == told) return;
  {
    const std::lock_guard guard(mutex_);
    limits_ = found;
  }
  spdlog::info("limits changed cores={} cores_before={} memory_bytes={} memory_bytes_before={}", found.cores,
               told.cores, found.memory_bytes, told.memory_bytes);
  changed_(found);
  told = found;
}

void LimitWatch::run(const std::stop_token& stopped, std::chrono::milliseconds every) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  ProcessLimits told = now();
  while (!wake.wait_for(lock, stopped, every, [&] { return stopped.stop_requested(); })) {
    try {
      tell_if_changed(told);
    } catch (const std::exception& failure) {
      spdlog::error("limits not looked at message={}", log_value(failure.what()));
    }
  }
}

}  // namespace slipway

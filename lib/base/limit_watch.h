// Notices that this process's limits change while it runs, as they do when a pod is resized in place.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <thread>

#include "lib/base/machine.h"
#include "lib/base/readings.h"

namespace slipway {

// Logs the limits as they are and at every change, and shows them on /metrics. To be made once logging has begun.
class LimitWatch {
 public:
  using Read = std::function<ProcessLimits()>;
  // The new limits, in the watch's thread; once more after a while when it throws.
  using Changed = std::function<void(const ProcessLimits&)>;

  explicit LimitWatch(
      Changed changed = [](const ProcessLimits&) {}, Read read = [] { return process_limits(); },
      std::chrono::milliseconds every = std::chrono::seconds(2));
  LimitWatch(const LimitWatch&) = delete;
  LimitWatch& operator=(const LimitWatch&) = delete;

  [[nodiscard]] ProcessLimits now() const;

 private:
  void tell_if_changed(ProcessLimits& told);
  void run(const std::stop_token& stopped, std::chrono::milliseconds every);

  const Changed changed_;
  const Read read_;
  mutable std::mutex mutex_;
  ProcessLimits limits_;
  const Reading cores_;
  const Reading memory_;
  std::jthread thread_;  // last: it ends before what it reads
};

}  // namespace slipway

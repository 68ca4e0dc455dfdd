// When a child that has ended is started again, and when it is given up. No clock or process in here.
#pragma once

#include <chrono>
#include <optional>

namespace slipway::cli {

class RestartPolicy {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kFirstWait{200};
  static constexpr std::chrono::milliseconds kLongestWait{5000};
  static constexpr std::chrono::seconds kSteady{10};  // a child that ran this long starts with the first wait again
  static constexpr int kStartsBeforeGivingUp = 5;

  void started(Clock::time_point now) { started_ = now; }
  void ready() { ever_ready_ = true; }

  // The child has ended: how long to wait before the next start; nullopt when it has never once become ready in
  // kStartsBeforeGivingUp starts.
  [[nodiscard]] std::optional<std::chrono::milliseconds> ended(Clock::time_point now);

 private:
  Clock::time_point started_{};
  std::chrono::milliseconds next_wait_ = kFirstWait;
  bool ever_ready_ = false;
  int failed_starts_ = 0;
};

}  // namespace slipway::cli

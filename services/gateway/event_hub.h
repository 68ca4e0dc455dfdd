// Wakes the coroutines that wait for something to happen to a job.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "schema/messages.h"
#include "services/gateway/task.h"

namespace slipway::gateway {

// Threads: any.
class EventHub {
 public:
  // One waiter for the events of one job. Life: the coroutine that waits; must not outlive the hub.
  class Waiter {
   public:
    Waiter(EventHub& hub, const Executor& executor, std::string job);
    ~Waiter();
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;

    // Returns when the job has changed since the last wait, wake() was called, or `most` has passed.
    Task<void> wait(std::chrono::milliseconds most);

    // On the waiter's own thread.
    void wake();

   private:
    friend class EventHub;
    struct Shared;
    EventHub& hub_;
    const std::string job_;
    std::shared_ptr<Shared> shared_;
  };

  void on_changed(const msg::Changed& changed);

  // Wakes everybody, now and at every later wait.
  void close();
  [[nodiscard]] bool closed();

 private:
  std::mutex mutex_;
  std::map<std::string, std::set<std::shared_ptr<Waiter::Shared>>> waiting_;
  bool closed_ = false;
};

}  // namespace slipway::gateway

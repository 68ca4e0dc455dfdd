// Keeps a job's lease alive and tells the registry what happens, from a thread that does not compute. Reports with
// events are numbered densely from 1, and one that was not answered is told again under its number: the registry takes
// it once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/wire/caller.h"

namespace slipway::trainer {

// Life: reports from construction to destruction, at least every third of the lease's duration; while the registry is
// away it keeps trying. Threads: any.
class LeaseReporter {
 public:
  LeaseReporter(Caller& registry, Lease lease, std::string request_id);
  ~LeaseReporter();
  LeaseReporter(const LeaseReporter&) = delete;
  LeaseReporter& operator=(const LeaseReporter&) = delete;

  // Queues an event. A progress that was not sent yet gives way to a newer one.
  void add(JobEvent event);

  // Waits until everything queued has been taken, at most `limit`.
  void flush(std::chrono::milliseconds limit);

  [[nodiscard]] bool cancelled() const { return cancelled_; }  // the registry wants the job ended
  [[nodiscard]] bool lost() const { return lost_; }            // the lease is somebody else's: stop, write nothing more
  void mark_lost();

 private:
  void run();
  void report(std::unique_lock<std::mutex>& lock);  // one, and the wait for the next
  // How the next report is to be made, given what is waiting.
  [[nodiscard]] std::chrono::milliseconds interval() const;

  Caller& registry_;
  const Lease lease_;
  const std::string request_id_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> lost_{false};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<JobEvent> waiting_;
  std::vector<JobEvent> report_;  // sent, and told again as it is until it is answered: it may have been taken
  std::uint64_t number_ = 0;      // of the last report with events
  bool unanswered_ = false;
  bool stopping_ = false;
  std::chrono::milliseconds lease_time_;
  std::thread thread_;
};

}  // namespace slipway::trainer

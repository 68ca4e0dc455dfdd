#include "services/trainer/lease_reporter.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "lib/base/log.h"
#include "services/trainer/metrics.h"

namespace slipway::trainer {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kBetweenReports = 250ms;  // at least, when there is much to tell
constexpr std::chrono::milliseconds kAfterFailure = 500ms;
constexpr std::chrono::milliseconds kLeastLease = 100ms;  // a shorter one would be renewed all the time
constexpr std::size_t kMaxWaiting = 10'000;
constexpr std::size_t kMaxInOneReport = 256;

// Telling it again would change nothing.
bool never_taken(const Error& error) {
  return error.code == Code::kInvalidArgument || error.code == Code::kTooLarge || error.code == Code::kUnsupported;
}

}  // namespace

LeaseReporter::LeaseReporter(Caller& registry, Lease lease, std::string request_id)
    : registry_(registry),
      lease_(std::move(lease)),
      request_id_(std::move(request_id)),
      lease_time_(std::max(std::chrono::milliseconds(lease_.duration_ms), kLeastLease)),
      thread_([this] { run(); }) {}

LeaseReporter::~LeaseReporter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LeaseReporter::add(JobEvent event) {
  {
    const std::lock_guard lock(mutex_);
    if (!waiting_.empty() && waiting_.back().kind == "progress" && event.kind == "progress") waiting_.pop_back();
    // While the registry is away the oldest news is worth least.
    if (waiting_.size() >= kMaxWaiting) waiting_.pop_front();
    waiting_.push_back(std::move(event));
  }
  changed_.notify_all();
}

void LeaseReporter::flush(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [this] { return (waiting_.empty() && !unanswered_) || lost_; });
}

void LeaseReporter::mark_lost() {
  lost_ = true;
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

std::chrono::milliseconds LeaseReporter::interval() const {
  // A report takes time of its own, so a quarter keeps within the third that is asked for.
  return lease_time_ / 4;
}

void LeaseReporter::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !lost_) {
    try {
      report(lock);
    } catch (const std::exception& e) {
      // The lease must not end with this thread: whatever went wrong may go better the next time.
      spdlog::error("report failed job={} reason={}", lease_.job.text(), log_value(e.what()));
      if (!lock.owns_lock()) lock.lock();
      changed_.wait_for(lock, kAfterFailure, [this] { return stopping_ || lost_; });
    }
  }
}

void LeaseReporter::report(std::unique_lock<std::mutex>& lock) {
  if (!unanswered_) {
    report_.clear();
    while (!waiting_.empty() && report_.size() < kMaxInOneReport) {
      report_.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    if (!report_.empty()) ++number_;
  }
  unanswered_ = true;
  msg::ReportJob report{lease_, report_, report_.empty() ? 0 : number_};
  const auto deadline = std::max<std::chrono::milliseconds>(interval(), 500ms);
  lock.unlock();
  const auto sent = std::chrono::steady_clock::now();
  auto answer = Caller::as<msg::JobOrders>(registry_.call_and_wait(
      std::move(report), {}, {.deadline = deadline, .repeat_after = {}, .request_id = request_id_}));
  lock.lock();
  if (answer) {
    if (answer->cancel) cancelled_ = true;
    if (answer->lease_ms > 0) lease_time_ = std::max(std::chrono::milliseconds(answer->lease_ms), kLeastLease);
  } else if (answer.error().code == Code::kConflict || answer.error().code == Code::kNotFound) {
    spdlog::warn("lease lost job={} reason={}", lease_.job.text(), log_value(answer.error().message));
    lost_ = true;
  } else {
    metrics().failed_reports.Increment();
    spdlog::warn("report not taken job={} code={} reason={}", lease_.job.text(), code_name(answer.error().code),
                 log_value(answer.error().message));
    if (never_taken(answer.error()) && !report_.empty()) {
      // It was refused for what it says, so it has not counted: the next one has its number.
      report_.clear();
      --number_;
    }
    changed_.notify_all();
    changed_.wait_until(lock, sent + std::min(interval(), kAfterFailure), [this] { return stopping_ || lost_; });
    return;
  }
  unanswered_ = false;
  changed_.notify_all();
  if (waiting_.size() >= kMaxInOneReport) return;  // more than one report can hold
  const auto pause = interval();
  changed_.wait_until(lock, sent + std::min(pause, kBetweenReports), [this] { return stopping_ || lost_; });
  changed_.wait_until(lock, sent + pause, [this] { return stopping_ || lost_ || !waiting_.empty(); });
}

}  // namespace slipway::trainer

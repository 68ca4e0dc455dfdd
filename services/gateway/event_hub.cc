#include "services/gateway/event_hub.h"

#include <boost/asio/redirect_error.hpp>

namespace slipway::gateway {

// Touched on the waiter's thread only; others post.
struct EventHub::Waiter::Shared {
  using Timer =
      asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;
  explicit Shared(const Executor& on) : executor(on), timer(on) {}
  Executor executor;
  Timer timer;
  bool woken = false;
  static void notify(const std::shared_ptr<Shared>& shared) {
    asio::post(shared->executor, [shared] {
      shared->woken = true;
      shared->timer.cancel();
    });
  }
};

EventHub::Waiter::Waiter(EventHub& hub, const Executor& executor, std::string job)
    : hub_(hub), job_(std::move(job)), shared_(std::make_shared<Shared>(executor)) {
  const std::lock_guard lock(hub_.mutex_);
  hub_.waiting_[job_].insert(shared_);
}

EventHub::Waiter::~Waiter() {
  const std::lock_guard lock(hub_.mutex_);
  const auto found = hub_.waiting_.find(job_);
  found->second.erase(shared_);
  if (found->second.empty()) hub_.waiting_.erase(found);
}

Task<void> EventHub::Waiter::wait(std::chrono::milliseconds most) {
  const auto shared = shared_;
  if (!shared->woken && !hub_.closed()) {
    shared->timer.expires_after(most);
    boost::system::error_code ignored;
    co_await shared->timer.async_wait(asio::redirect_error(kUseTask, ignored));
  }
  shared->woken = false;
}

void EventHub::Waiter::wake() {
  shared_->woken = true;
  shared_->timer.cancel();
}

void EventHub::on_changed(const msg::Changed& changed) {
  if (changed.subject != msg::Subject::kJob) return;
  const std::lock_guard lock(mutex_);
  const auto found = waiting_.find(changed.key);
  if (found == waiting_.end()) return;
  for (const auto& shared : found->second) Waiter::Shared::notify(shared);
}

void EventHub::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const auto& [job, waiters] : waiting_) {
    for (const auto& shared : waiters) Waiter::Shared::notify(shared);
  }
}

bool EventHub::closed() {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace slipway::gateway

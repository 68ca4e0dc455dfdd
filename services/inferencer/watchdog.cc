#include "services/inferencer/watchdog.h"

#include <utility>

namespace slipway::inferencer {

std::optional<Watchdog::Run> Watchdog::overdue(TimePoint now) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, run] : runs_) {
    if (run.until < now) return run;
  }
  return std::nullopt;
}

std::size_t Watchdog::running() const {
  const std::lock_guard lock(mutex_);
  return runs_.size();
}

std::uint64_t Watchdog::begin(Run run) {
  const std::lock_guard lock(mutex_);
  runs_.emplace(++next_, std::move(run));
  return next_;
}

void Watchdog::end(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  runs_.erase(id);
}

}  // namespace slipway::inferencer

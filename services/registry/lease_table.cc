#include "services/registry/lease_table.h"

#include <algorithm>
#include <format>

#include "lib/base/secret.h"

namespace slipway::registry {

void LeaseTable::grant(const Lease& lease, TimePoint now) {
  held_.insert_or_assign(
      lease.job, Held{.epoch = lease.epoch, .holder = lease.holder, .token = lease.token, .end = now + duration_});
}

Result<void> LeaseTable::renew(const Lease& lease, TimePoint now) {
  if (auto valid = check(lease); !valid) return valid;
  held_.at(lease.job).end = now + duration_;
  return {};
}

Result<void> LeaseTable::check(const Lease& lease) const {
  const auto found = held_.find(lease.job);
  if (found == held_.end()) {
    return fail(Code::kConflict, std::format("the lease of {} with epoch {} has ended", lease.job.text(), lease.epoch));
  }
  if (found->second.epoch != lease.epoch || found->second.holder != lease.holder) {
    return fail(Code::kConflict, std::format("the lease of {} has epoch {}, {} came from its earlier holder",
                                             lease.job.text(), found->second.epoch, lease.epoch));
  }
  if (!same_secret(found->second.token, lease.token)) {
    return fail(Code::kConflict,
                std::format("the lease of {} with epoch {} has another token", lease.job.text(), lease.epoch));
  }
  return {};
}

std::optional<JobId> LeaseTable::held_by(const WorkerId& holder) const {
  const auto found = std::ranges::find_if(held_, [&](const auto& held) { return held.second.holder == holder; });
  return found == held_.end() ? std::nullopt : std::optional(found->first);
}

std::vector<Lease> LeaseTable::take_expired(TimePoint now) {
  std::vector<Lease> expired;
  for (auto held = held_.begin(); held != held_.end();) {
    if (held->second.end > now) {
      ++held;
      continue;
    }
    expired.push_back({.job = held->first,
                       .epoch = held->second.epoch,
                       .holder = held->second.holder,
                       .duration_ms = static_cast<std::uint32_t>(duration_.count()),
                       .token = std::move(held->second.token)});
    held = held_.erase(held);
  }
  return expired;
}

void LeaseTable::extend_all(std::chrono::steady_clock::duration pause) {
  for (auto& [job, held] : held_) held.end += pause;
}

}  // namespace slipway::registry

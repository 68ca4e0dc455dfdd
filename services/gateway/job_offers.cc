#include "services/gateway/job_offers.h"

#include <algorithm>

namespace slipway::gateway {

void JobOffers::on_job(const JobId& job, JobState state, TimePoint now) {
  if (state != JobState::kQueued && state != JobState::kRetrying) {
    waiting_.erase(job);
  } else if (waiting_.size() < kMaxJobs) {
    waiting_.insert_or_assign(job, now);
  }
}

std::vector<JobOffers::Offer> JobOffers::offers(TimePoint now) {
  std::vector<Offer> out;
  std::erase_if(waiting_, [&](const auto& job) { return now - job.second >= kForget; });
  if (waiting_.empty()) offered_.clear();
  if (stopped_ || waiting_.empty()) return out;
  auto idle = workers_.idle_trainers();
  std::erase_if(offered_, [&](const auto& offer) { return !std::ranges::contains(idle, offer.first); });
  // In turn: another trainer than the last time comes first.
  const auto next = std::ranges::find_if(idle, [&](const Peer& peer) { return peer > last_; });
  std::ranges::rotate(idle, next);
  const auto is_recent = [&](const Peer& peer) {
    const auto before = offered_.find(peer);
    return before != offered_.end() && now - before->second < kOfferEvery;
  };
  // Each offer that is on its way speaks for one of the jobs.
  const auto recent = static_cast<std::size_t>(std::ranges::count_if(idle, is_recent));
  if (recent >= waiting_.size()) return out;
  auto job = std::next(waiting_.begin(), static_cast<std::ptrdiff_t>(recent));
  for (const Peer& peer : idle) {
    if (job == waiting_.end()) break;
    if (is_recent(peer)) continue;
    offered_[peer] = now;
    last_ = peer;
    out.push_back({.peer = peer, .job = job->first});
    ++job;
  }
  return out;
}

}  // namespace slipway::gateway

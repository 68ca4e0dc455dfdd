#include "services/gateway/job_dispatcher.h"

namespace slipway::gateway {

DispatchAction JobDispatcher::give_back(const Lease& lease, const std::string& why) {
  return GiveBack{
      .end = {.lease = lease, .outcome = msg::Outcome::kReleased, .reason = {}, .message = why, .retry = false}};
}

void JobDispatcher::wake(TimePoint now, Actions& out) {
  if (claiming_ || stopped_) return;
  auto peer = workers_.pick_trainer();
  if (!peer) return;
  asked_ = now;
  workers_.take(*peer, 0);
  claiming_ = Claiming{.number = next_claim_++, .peer = *peer, .until = now + kClaimWithin};
  out.push_back(Claim{.number = claiming_->number, .worker = workers_.find(*peer)->id});
}

void JobDispatcher::on_claimed(std::uint64_t number, std::optional<msg::RunJob> run, TimePoint now, Actions& out) {
  if (!claiming_ || claiming_->number != number) {
    if (run) out.push_back(give_back(run->lease, "the registry's answer to the claim came late"));
    return;
  }
  const Peer peer = std::move(claiming_->peer);
  claiming_.reset();
  if (!run) {
    workers_.give_back(peer, 0);
    return;
  }
  // The trainer may have gone, or another process may have come under its id, while the registry was asked.
  const auto* worker = workers_.find(peer);
  if (worker == nullptr || worker->id != run->lease.holder || worker->draining) {
    workers_.give_back(peer, 0);
    out.push_back(give_back(run->lease, "the trainer was gone before it could be given the job"));
    return;
  }
  const std::uint64_t attempt = next_attempt_++;
  offers_.emplace(attempt, Offer{.peer = peer, .lease = run->lease, .until = now + kAcceptWithin});
  out.push_back(HandOver{.peer = peer, .attempt = attempt, .run = std::move(*run)});
  wake(now, out);
}

void JobDispatcher::on_accepted(const Peer& peer, std::uint64_t attempt, TimePoint now, Actions& out) {
  const auto found = offers_.find(attempt);
  if (found == offers_.end() || found->second.peer != peer) return;
  offers_.erase(found);
  // Its next heartbeat says whether it takes more; until then its last credit is spent.
  workers_.give_back(peer, 0);
  workers_.use_up(peer);
  wake(now, out);
}

void JobDispatcher::on_refused(const Peer& peer, std::uint64_t attempt, const std::string& why, TimePoint now,
                               Actions& out) {
  const auto found = offers_.find(attempt);
  if (found == offers_.end() || found->second.peer != peer) return;
  out.push_back(give_back(found->second.lease, why));
  offers_.erase(found);
  workers_.give_back(peer, 0);
  workers_.use_up(peer);
  wake(now, out);
}

void JobDispatcher::on_peer_lost(const Peer& peer, Actions& out) {
  for (auto at = offers_.begin(); at != offers_.end();) {
    if (at->second.peer != peer) {
      ++at;
      continue;
    }
    out.push_back(give_back(at->second.lease, "the trainer was lost before it took the job"));
    at = offers_.erase(at);
  }
}

void JobDispatcher::on_tick(TimePoint now, Actions& out) {
  for (auto at = offers_.begin(); at != offers_.end();) {
    if (now < at->second.until) {
      ++at;
      continue;
    }
    // If it was taken after all, its first report fails: the lease is another's by then.
    out.push_back(give_back(at->second.lease, "the trainer did not say whether it took the job"));
    workers_.give_back(at->second.peer, 0);
    workers_.use_up(at->second.peer);
    at = offers_.erase(at);
  }
  if (claiming_ && now >= claiming_->until) {
    workers_.give_back(claiming_->peer, 0);
    claiming_.reset();
  }
  if (now - asked_ >= kAskEvery) wake(now, out);
}

}  // namespace slipway::gateway

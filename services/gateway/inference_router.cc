#include "services/gateway/inference_router.h"

#include <algorithm>

namespace slipway::gateway {
namespace {

Error no_inferencer() {
  return {.code = Code::kUnavailable,
          .message = "no inferencer is connected to this gateway",
          .path = {},
          .retry_after = std::chrono::seconds(2)};
}

}  // namespace

void InferenceRouter::submit(RequestId id, Routed routed, TimePoint now, Actions& out) {
  const TimePoint deadline = routed.deadline;
  if (deadline <= now) {
    out.push_back(Failed{
        id, {.code = Code::kDeadlineExceeded, .message = "the request's time was up before it was sent", .path = {}}});
    return;
  }
  if (workers_.count(msg::Role::kInferencer) == 0 && now >= patient_until_) {
    out.push_back(Failed{id, no_inferencer()});
    return;
  }
  const At request = requests_.try_emplace(id, Request{.routed = std::move(routed)}).first;
  deadlines_.emplace(deadline, id);
  // First come, first served: nobody overtakes those who wait.
  if (queue_.empty() && try_send(request, now, out)) return;
  request->second.place = queue_.insert(queue_.end(), id);
  if (queue_.size() <= max_queued_) return;
  finish(request);
  out.push_back(Failed{id,
                       {.code = Code::kOverloaded,
                        .message = std::format("{} requests are waiting for an inferencer already", queue_.size()),
                        .path = {},
                        .retry_after = std::chrono::seconds(1)}});
}

bool InferenceRouter::try_send(At request, TimePoint now, Actions& out) {
  Request& waiting = request->second;
  const auto avoid = waiting.peer.empty() ? std::nullopt : std::optional(waiting.peer);
  auto peer = workers_.pick_inferencer(waiting.routed.version, avoid);
  if (!peer) return false;
  waiting.peer = std::move(*peer);
  waiting.attempt = next_attempt_++;
  attempts_.emplace(waiting.attempt, request->first);
  workers_.take(waiting.peer, waiting.routed.rows);
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(waiting.routed.deadline - now);
  out.push_back(SendTo{.peer = waiting.peer,
                       .attempt = waiting.attempt,
                       .request = request->first,
                       .left = std::max(left, std::chrono::milliseconds(1)),
                       .alone = waiting.alone});
  return true;
}

void InferenceRouter::take_back(At request) {
  Request& sent = request->second;
  attempts_.erase(sent.attempt);
  sent.attempt = 0;
  workers_.give_back(sent.peer, sent.routed.rows);
}

bool InferenceRouter::trusted(const Routed& routed) const {
  return !routed.uploaded || (routed.version && proven_.contains(*routed.version));
}

void InferenceRouter::note_proven(const Request& request) {
  if (!request.routed.uploaded || !request.routed.version || !proven_.insert(*request.routed.version).second) return;
  proven_in_.push_back(*request.routed.version);
  if (proven_in_.size() <= kMostProven) return;
  proven_.erase(proven_in_.front());
  proven_in_.pop_front();
}

void InferenceRouter::finish(At request) {
  if (request->second.attempt != 0)
    take_back(request);
  else
    queue_.erase(request->second.place);
  deadlines_.erase({request->second.routed.deadline, request->first});
  requests_.erase(request);
}

std::optional<RequestId> InferenceRouter::on_answer(const Peer& peer, std::uint64_t attempt, TimePoint now,
                                                    Actions& out) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return std::nullopt;
  const At request = requests_.find(found->second);
  if (request->second.peer != peer) return std::nullopt;  // another worker's number
  const RequestId id = request->first;
  note_proven(request->second);
  finish(request);
  pump(now, out);
  return id;
}

void InferenceRouter::on_error(const Peer& peer, std::uint64_t attempt, Error error, TimePoint now, Actions& out) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  const At request = requests_.find(found->second);
  if (request->second.peer != peer) return;
  take_back(request);
  if (error.code == Code::kUnavailable || error.code == Code::kOverloaded) {
    retry_or_fail(request, std::move(error), now, out);
  } else {
    const RequestId id = request->first;
    deadlines_.erase({request->second.routed.deadline, id});
    requests_.erase(request);
    out.push_back(Failed{id, std::move(error)});
  }
  pump(now, out);
}

void InferenceRouter::on_send_failed(std::uint64_t attempt, TimePoint now, Actions& out) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  const At request = requests_.find(found->second);
  take_back(request);
  retry_or_fail(request,
                {.code = Code::kUnavailable,
                 .message = "the request could not be sent to an inferencer",
                 .path = {},
                 .retry_after = std::chrono::seconds(1)},
                now, out);
}

void InferenceRouter::on_peer_lost(const Peer& peer, TimePoint now, Actions& out) {
  std::vector<RequestId> lost;
  for (const auto& [attempt, id] : attempts_) {
    if (requests_.at(id).peer == peer) lost.push_back(id);
  }
  for (const RequestId id : lost) {
    const At request = requests_.find(id);
    take_back(request);
    const bool again = request->second.retried;
    if (!trusted(request->second.routed)) {
      deadlines_.erase({request->second.routed.deadline, id});
      requests_.erase(request);
      out.push_back(Failed{id,
                           {.code = Code::kUnavailable,
                            .message = "the inferencer that ran this uploaded model was lost before the model had ever "
                                       "answered; it was not tried on another one",
                            .path = {},
                            .retry_after = std::chrono::seconds(5)}});
      continue;
    }
    request->second.alone = true;
    retry_or_fail(request,
                  {.code = Code::kUnavailable,
                   .message = again ? "the inferencer that had the request was lost, and so was a second one"
                                    : "the inferencer that had the request was lost",
                   .path = {},
                   .retry_after = std::chrono::seconds(1)},
                  now, out);
  }
  if (workers_.count(msg::Role::kInferencer) > 0) return pump(now, out);
  patient_until_ = now + kPatience;
}

// Nobody is left to wait for; what was sent once may still hope for a worker that restarts.
void InferenceRouter::fail_waiting(Actions& out) {
  for (auto at = queue_.begin(); at != queue_.end();) {
    const At request = requests_.find(*at++);
    if (request->second.retried) continue;
    const RequestId id = request->first;
    finish(request);
    out.push_back(Failed{id, no_inferencer()});
  }
}

void InferenceRouter::retry_or_fail(At request, Error error, TimePoint now, Actions& out) {
  const RequestId id = request->first;
  if (request->second.retried) {
    deadlines_.erase({request->second.routed.deadline, id});
    requests_.erase(request);
    out.push_back(Failed{id, std::move(error)});
    return;
  }
  request->second.retried = true;
  ++retries_;
  // It has waited once already: to the front, over the queue's limit if need be.
  if (!try_send(request, now, out)) request->second.place = queue_.insert(queue_.begin(), id);
}

void InferenceRouter::cancel(RequestId id, TimePoint now, Actions& out) {
  const At request = requests_.find(id);
  if (request == requests_.end()) return;
  if (request->second.attempt != 0) out.push_back(CancelAt{request->second.peer, request->second.attempt});
  finish(request);
  pump(now, out);
}

void InferenceRouter::pump(TimePoint now, Actions& out) {
  while (!queue_.empty()) {
    const At request = requests_.find(queue_.front());
    if (!try_send(request, now, out)) return;
    queue_.erase(queue_.begin());
  }
}

void InferenceRouter::on_tick(TimePoint now, Actions& out) {
  if (!queue_.empty() && now >= patient_until_ && workers_.count(msg::Role::kInferencer) == 0) fail_waiting(out);
  bool freed = false;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const At request = requests_.find(deadlines_.begin()->second);
    const RequestId id = request->first;
    const bool sent = request->second.attempt != 0;
    if (sent) out.push_back(CancelAt{request->second.peer, request->second.attempt});
    finish(request);
    out.push_back(Failed{id,
                         {.code = Code::kDeadlineExceeded,
                          .message = sent ? "no inferencer answered in time" : "no inferencer was free in time",
                          .path = {}}});
    freed = true;
  }
  if (freed) pump(now, out);
}

}  // namespace slipway::gateway

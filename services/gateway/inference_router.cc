#include "services/gateway/inference_router.h"

#include <algorithm>
#include <format>

namespace slipway::gateway {
namespace {

Error no_inferencer() {
  return {.code = Code::kUnavailable,
          .message = "no inferencer is connected to this gateway",
          .path = {},
          .retry_after = std::chrono::seconds(2)};
}

// Of an uploaded version, which may have ended an inferencer.
Error not_elsewhere(std::string message) {
  return {
      .code = Code::kUnavailable, .message = std::move(message), .path = {}, .retry_after = std::chrono::seconds(5)};
}

Error lost_again() {
  return not_elsewhere(
      std::format("an inferencer that ran this uploaded model was lost, the second within {} minutes; it was not tried "
                  "on another one",
                  InferenceRouter::kSuspect.count()));
}

Error no_place(std::string message) {
  return {.code = Code::kOverloaded, .message = std::move(message), .path = {}, .retry_after = std::chrono::seconds(1)};
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
  const auto [line, made] = lines_.try_emplace(routed.version);
  if (made) line->second.turn = next_line_++;
  if (line->second.open++ == 0) ++busy_lines_;
  const At request = requests_.try_emplace(id, Request{.routed = std::move(routed), .line = line}).first;
  deadlines_.emplace(deadline, id);
  // While somebody waits there is no credit, or it is theirs.
  if (queued_ == 0 && try_send(request, now, out)) return;
  if (auto full = make_room(line->second, out)) {
    forget(request);
    out.push_back(Failed{id, std::move(*full)});
    return;
  }
  enqueue(request, false);
}

std::optional<Error> InferenceRouter::make_room(const Line& line, Actions& out) {
  const std::size_t waiting = line.waiting.size();
  if (queued_ >= max_queued_) {
    if (lengths_.empty()) return no_place("no request may wait for an inferencer");
    const Line& longest = lengths_.rbegin()->second;
    if (longest.waiting.size() <= waiting + 1)
      return no_place(std::format("{} requests are waiting for an inferencer already", queued_));
    const RequestId last = longest.waiting.back();
    finish(requests_.find(last));
    out.push_back(Failed{last, no_place("its place among those who wait for an inferencer went to another version's "
                                        "request, of which fewer wait")});
    return std::nullopt;
  }
  if (busy_lines_ > 1 && waiting >= max_queued_ - max_queued_ / 2)
    return no_place(
        std::format("{} requests of this version are waiting for an inferencer already, and there are "
                    "other versions' requests",
                    waiting));
  return std::nullopt;
}

// What `apply` does to the line is done to the two orders too; they know only lines in which somebody waits.
template <class Change>
void InferenceRouter::change(Line& line, Change apply) {
  if (!line.waiting.empty()) {
    next_.erase({line.outstanding, line.turn});
    lengths_.erase({line.waiting.size(), line.turn});
  }
  apply();
  if (!line.waiting.empty()) {
    next_.emplace(std::pair(line.outstanding, line.turn), line);
    lengths_.emplace(std::pair(line.waiting.size(), line.turn), line);
  }
}

void InferenceRouter::enqueue(At request, bool in_front) {
  Line& line = request->second.line->second;
  change(line, [&] {
    request->second.place = line.waiting.insert(in_front ? line.waiting.begin() : line.waiting.end(), request->first);
  });
  ++queued_;
}

InferenceRouter::Load InferenceRouter::load(const std::optional<msg::VersionKey>& version) const {
  const auto found = lines_.find(version);
  if (found == lines_.end()) return {};
  return {.queued = found->second.waiting.size(), .outstanding = found->second.outstanding};
}

bool InferenceRouter::try_send(At request, TimePoint now, Actions& out) {
  Request& waiting = request->second;
  const auto avoid = waiting.peer.empty() ? std::nullopt : std::optional(waiting.peer);
  auto peer = workers_.pick_inferencer(waiting.routed.version, avoid);
  if (!peer) return false;
  waiting.peer = std::move(*peer);
  waiting.attempt = next_attempt_++;
  attempts_.emplace(waiting.attempt, request);
  Line& line = waiting.line->second;
  change(line, [&] {
    if (waiting.place) {
      line.waiting.erase(*waiting.place);
      waiting.place.reset();
      --queued_;
    }
    ++line.outstanding;
    line.turn = next_turn_++;
  });
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
  Line& line = sent.line->second;
  change(line, [&] { --line.outstanding; });
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
  if (request->second.attempt != 0) {
    take_back(request);
  } else if (const auto place = request->second.place) {  // none: it was cut short while it was taken
    Line& line = request->second.line->second;
    change(line, [&] { line.waiting.erase(*place); });
    --queued_;
  }
  forget(request);
}

// Of what is neither sent nor queued.
void InferenceRouter::forget(At request) {
  const Lines::iterator line = request->second.line;
  deadlines_.erase({request->second.routed.deadline, request->first});
  requests_.erase(request);
  if (--line->second.open > 0) return;
  --busy_lines_;
  if (lines_.size() > kKeptLines) lines_.erase(line);
}

std::optional<RequestId> InferenceRouter::on_answer(const Peer& peer, std::uint64_t attempt, TimePoint now,
                                                    Actions& out) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return std::nullopt;
  const At request = found->second;
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
  const At request = found->second;
  if (request->second.peer != peer) return;
  take_back(request);
  if (error.code == Code::kUnavailable || error.code == Code::kOverloaded) {
    retry_or_fail(request, std::move(error), now, out);
  } else {
    const RequestId id = request->first;
    forget(request);
    out.push_back(Failed{id, std::move(error)});
  }
  pump(now, out);
}

void InferenceRouter::on_send_failed(std::uint64_t attempt, TimePoint now, Actions& out) {
  const auto found = attempts_.find(attempt);
  if (found == attempts_.end()) return;
  const At request = found->second;
  take_back(request);
  retry_or_fail(request,
                {.code = Code::kUnavailable,
                 .message = "the request could not be sent to an inferencer",
                 .path = {},
                 .retry_after = std::chrono::seconds(1)},
                now, out);
}

void InferenceRouter::on_peer_lost(const Peer& peer, TimePoint now, Actions& out) {
  std::vector<At> lost;
  for (const auto& [attempt, request] : attempts_) {
    if (request->second.peer == peer) lost.push_back(request);
  }
  std::erase_if(suspects_, [&](const auto& suspect) { return now - suspect.second >= kSuspect; });
  std::set<msg::VersionKey> with_it;  // uploaded versions: suspects for the next loss, not for this one
  for (const At request : lost) {
    const RequestId id = request->first;
    take_back(request);
    const Routed& routed = request->second.routed;
    const bool again = request->second.retried;
    if (routed.uploaded && routed.version) with_it.insert(*routed.version);
    const bool suspect = routed.uploaded && routed.version && suspects_.contains(*routed.version);
    if (!trusted(routed) || suspect) {
      forget(request);
      out.push_back(Failed{id, suspect
                                   ? lost_again()
                                   : not_elsewhere("the inferencer that ran this uploaded model was lost before "
                                                   "the model had ever answered; it was not tried on another one")});
      continue;
    }
    request->second.alone = request->second.routed.uploaded;
    retry_or_fail(request,
                  {.code = Code::kUnavailable,
                   .message = again ? "the inferencer that had the request was lost, and so was a second one"
                                    : "the inferencer that had the request was lost",
                   .path = {},
                   .retry_after = std::chrono::seconds(1)},
                  now, out);
  }
  for (const msg::VersionKey& version : with_it) {
    if (!suspects_.insert_or_assign(version, now).second) fail_suspected(version, out);
  }
  if (workers_.count(msg::Role::kInferencer) > 0) return pump(now, out);
  patient_until_ = now + kPatience;
}

// What waits to be tried once more, after an earlier loss.
void InferenceRouter::fail_suspected(const msg::VersionKey& version, Actions& out) {
  const auto line = lines_.find(version);
  if (line == lines_.end()) return;
  std::vector<At> waiting;
  for (const RequestId id : line->second.waiting) {
    if (const At request = requests_.find(id); request->second.alone) waiting.push_back(request);
  }
  for (const At request : waiting) {
    const RequestId id = request->first;
    finish(request);
    out.push_back(Failed{id, lost_again()});
  }
}

// Nobody is left to wait for; what was sent once may still hope for a worker that restarts.
void InferenceRouter::fail_waiting(Actions& out) {
  std::vector<At> hopeless;
  for (const auto& [key, line] : next_) {
    for (const RequestId id : line.get().waiting) {
      const At request = requests_.find(id);
      if (!request->second.retried) hopeless.push_back(request);
    }
  }
  for (const At request : hopeless) {
    const RequestId id = request->first;
    finish(request);
    out.push_back(Failed{id, no_inferencer()});
  }
}

void InferenceRouter::retry_or_fail(At request, Error error, TimePoint now, Actions& out) {
  const RequestId id = request->first;
  if (request->second.retried) {
    forget(request);
    out.push_back(Failed{id, std::move(error)});
    return;
  }
  request->second.retried = true;
  ++retries_;
  // It has waited once already: to the front of its line, over the limit if need be.
  if (!try_send(request, now, out)) enqueue(request, true);
}

void InferenceRouter::cancel(RequestId id, TimePoint now, Actions& out) {
  const At request = requests_.find(id);
  if (request == requests_.end()) return;
  if (request->second.attempt != 0) out.push_back(CancelAt{request->second.peer, request->second.attempt});
  finish(request);
  pump(now, out);
}

void InferenceRouter::pump(TimePoint now, Actions& out) {
  while (!next_.empty()) {
    const Line& line = next_.begin()->second;
    if (!try_send(requests_.find(line.waiting.front()), now, out)) return;
  }
}

void InferenceRouter::on_tick(TimePoint now, Actions& out) {
  if (queued_ > 0 && now >= patient_until_ && workers_.count(msg::Role::kInferencer) == 0) fail_waiting(out);
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

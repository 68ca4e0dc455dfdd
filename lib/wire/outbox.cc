#include "lib/wire/outbox.h"

#include <algorithm>

#include "lib/wire/codec.h"

namespace slipway {

void stamp(Outgoing& message) {
  if (message.left_ms == message.deadline_ms) return;
  message.envelope = with_deadline(message.envelope, message.left_ms);
  message.deadline_ms = message.left_ms;
}

Outbox::Outbox(Limits limits, TrySend try_send, Gone gone)
    : limits_(limits), try_send_(std::move(try_send)), gone_(std::move(gone)) {}

bool Outbox::in_time(Outgoing& message, TimePoint now) {
  message.left_ms = message.deadline_ms;
  if (!message.expires) return true;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*message.expires - now).count();
  if (left <= 0) return false;
  if (left < message.deadline_ms) message.left_ms = static_cast<std::uint32_t>(left);
  return true;
}

Result<void> Outbox::deliver(Outgoing&& message, TimePoint now) {
  if (!in_time(message, now)) return fail(Code::kDeadlineExceeded, "the deadline passed before it could be sent");
  const auto found = waiting_.find(message.peer);
  if (found == waiting_.end()) {
    const Sent sent = try_send_(message);
    if (sent == Sent::kYes) return {};
    if (sent == Sent::kGone) return fail(Code::kUnavailable, "the peer has gone");
    Queue& queue = waiting_[message.peer];
    queue.bytes = message.bytes;
    queue.messages.push_back(std::move(message));
    return {};
  }
  Queue& queue = found->second;
  if (queue.messages.size() >= limits_.max_messages || queue.bytes >= limits_.max_bytes) {
    return fail(Code::kOverloaded,
                std::format("{} messages of {} bytes wait for the peer already", queue.messages.size(), queue.bytes));
  }
  queue.bytes += message.bytes;
  queue.messages.push_back(std::move(message));
  return {};
}

std::vector<std::uint64_t> Outbox::correlations(const std::string& peer) const {
  std::vector<std::uint64_t> all;
  const auto found = waiting_.find(peer);
  if (found == waiting_.end()) return all;
  for (const Outgoing& message : found->second.messages) all.push_back(message.correlation);
  std::ranges::sort(all);
  return all;
}

void Outbox::flush(TimePoint now) {
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Queue& queue = at->second;
    while (!queue.messages.empty()) {
      Outgoing& first = queue.messages.front();
      if (in_time(first, now)) {
        const Sent sent = try_send_(first);
        if (sent == Sent::kNoRoom) break;
        if (sent == Sent::kGone) gone_(first.peer);
      }
      queue.bytes -= first.bytes;
      queue.messages.pop_front();
    }
    at = queue.messages.empty() ? waiting_.erase(at) : std::next(at);
  }
}

}  // namespace slipway

#include "services/inferencer/batcher.h"

#include <algorithm>
#include <format>

namespace slipway::inferencer {

Result<void> Batcher::add(RequestId id, std::int64_t rows, const Group& group, TimePoint now,
                          std::optional<TimePoint> deadline) {
  if (rows < 1 || rows > limits_.max_rows) {
    return fail(Code::kInvalidArgument, std::format("{} rows, wanted 1 to {}", rows, limits_.max_rows));
  }
  if (queued_rows_ + rows > limits_.max_queued_rows) {
    return fail(Code::kOverloaded, std::format("Exceeds maximum queue size: {} rows wait, at most {} may", queued_rows_,
                                               limits_.max_queued_rows));
  }
  Queue& queue = groups_[group];
  queue.waiting.push_back({id, rows, now, deadline});
  queue.rows += rows;
  queued_rows_ += rows;
  if (deadline) ++with_deadline_;
  return {};
}

std::optional<Batcher::Batch> Batcher::take(TimePoint now) {
  auto chosen = groups_.end();
  for (auto group = groups_.begin(); group != groups_.end(); ++group) {
    const auto& [waiting, rows] = group->second;
    const bool due = rows >= limits_.max_rows || now - waiting.front().since >= limits_.max_wait;
    if (due && (chosen == groups_.end() || waiting.front().since < chosen->second.waiting.front().since))
      chosen = group;
  }
  if (chosen == groups_.end()) return std::nullopt;

  Queue& queue = chosen->second;
  Batch batch;
  auto end = queue.waiting.begin();
  while (end != queue.waiting.end() && batch.rows + end->rows <= limits_.max_rows) {
    batch.rows += end->rows;
    batch.ids.push_back(end->id);
    if (end->deadline) --with_deadline_;
    ++end;
  }
  // Full also means: the next request would not fit, so waiting longer gains nothing.
  if (batch.rows == limits_.max_rows || end != queue.waiting.end()) {
    batch.reason = Reason::kFull;
  } else if (limits_.max_wait.count() > 0) {
    batch.reason = Reason::kDue;
  }
  queue.waiting.erase(queue.waiting.begin(), end);
  queue.rows -= batch.rows;
  queued_rows_ -= batch.rows;
  if (queue.waiting.empty()) groups_.erase(chosen);
  return batch;
}

template <class Gone>
std::vector<RequestId> Batcher::remove_if(Gone gone) {
  std::vector<RequestId> removed;
  for (auto group = groups_.begin(); group != groups_.end();) {
    Queue& queue = group->second;
    std::erase_if(queue.waiting, [&](const Waiting& waiting) {
      if (!gone(waiting)) return false;
      removed.push_back(waiting.id);
      queue.rows -= waiting.rows;
      queued_rows_ -= waiting.rows;
      if (waiting.deadline) --with_deadline_;
      return true;
    });
    group = queue.waiting.empty() ? groups_.erase(group) : std::next(group);
  }
  return removed;
}

std::vector<RequestId> Batcher::take_late(TimePoint now) {
  if (with_deadline_ == 0) return {};
  return remove_if([&](const Waiting& waiting) { return waiting.deadline && *waiting.deadline <= now; });
}

bool Batcher::cancel(RequestId id) {
  return !remove_if([&](const Waiting& waiting) { return waiting.id == id; }).empty();
}

std::optional<Batcher::TimePoint> Batcher::due_at() const {
  std::optional<TimePoint> earliest;
  for (const auto& [group, queue] : groups_) {
    const auto since = queue.waiting.front().since;
    const auto due = queue.rows >= limits_.max_rows ? since : since + limits_.max_wait;
    if (!earliest || due < *earliest) earliest = due;
  }
  return earliest;
}

std::optional<Batcher::TimePoint> Batcher::oldest() const {
  std::optional<TimePoint> earliest;
  for (const auto& [group, queue] : groups_) {
    if (!earliest || queue.waiting.front().since < *earliest) earliest = queue.waiting.front().since;
  }
  return earliest;
}

}  // namespace slipway::inferencer

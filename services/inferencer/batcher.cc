#include "services/inferencer/batcher.h"

#include <algorithm>
#include <format>
#include <functional>

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
  const auto found = groups_.try_emplace(group).first;
  Queue& queue = found->second;
  queue.waiting.push_back({.id = id, .rows = rows, .since = now});
  queue.rows += rows;
  queued_rows_ += rows;
  waiting_.emplace(id, found);
  if (deadline) {
    deadlines_.push_back({*deadline, id});
    std::ranges::push_heap(deadlines_, std::greater<>());
  }
  return {};
}

std::optional<Batcher::Batch> Batcher::take(TimePoint now) {
  auto chosen = groups_.end();
  for (auto group = groups_.begin(); group != groups_.end(); ++group) {
    const auto& waiting = group->second.waiting;
    const bool due = group->second.rows >= limits_.max_rows || now - waiting.front().since >= limits_.max_wait;
    if (due && (chosen == groups_.end() || waiting.front().since < chosen->second.waiting.front().since))
      chosen = group;
  }
  if (chosen == groups_.end()) return std::nullopt;

  Queue& queue = chosen->second;
  Batch batch;
  auto end = queue.waiting.begin();
  for (; end != queue.waiting.end() && (end->gone || batch.rows + end->rows <= limits_.max_rows); ++end) {
    if (end->gone) {
      --queue.gone;
      continue;
    }
    batch.rows += end->rows;
    batch.ids.push_back(end->id);
    waiting_.erase(end->id);
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
  tidy(chosen);
  return batch;
}

// What is gone leaves at the ends at once, and from between when it is most of the queue.
void Batcher::tidy(Groups::iterator group) {
  Queue& queue = group->second;
  auto& waiting = queue.waiting;
  while (!waiting.empty() && waiting.front().gone) waiting.pop_front(), --queue.gone;
  while (!waiting.empty() && waiting.back().gone) waiting.pop_back(), --queue.gone;
  if (queue.gone > waiting.size() / 2) {
    std::erase_if(waiting, [](const Waiting& item) { return item.gone; });
    queue.gone = 0;
  }
  if (waiting.empty()) groups_.erase(group);
}

bool Batcher::cancel(RequestId id) {
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return false;
  const auto group = found->second;
  waiting_.erase(found);
  Queue& queue = group->second;
  const auto item = std::ranges::lower_bound(queue.waiting, id, {}, &Waiting::id);
  item->gone = true;
  queue.rows -= item->rows;
  queued_rows_ -= item->rows;
  ++queue.gone;
  tidy(group);
  return true;
}

std::vector<RequestId> Batcher::take_late(TimePoint now) {
  std::vector<RequestId> late;
  while (!deadlines_.empty() && deadlines_.front().at <= now) {
    const RequestId id = deadlines_.front().id;
    std::ranges::pop_heap(deadlines_, std::greater<>());
    deadlines_.pop_back();
    if (cancel(id)) late.push_back(id);
  }
  // Most have left in a batch long before their deadlines.
  constexpr std::size_t kFew = 64;
  if (deadlines_.size() > 2 * waiting_.size() + kFew) {
    std::erase_if(deadlines_, [this](const Deadline& deadline) { return !waiting_.contains(deadline.id); });
    std::ranges::make_heap(deadlines_, std::greater<>());
  }
  std::ranges::sort(late);
  return late;
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

// Groups waiting requests of one model version into batches. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "lib/base/error.h"

namespace slipway::inferencer {

// A request, or one piece of a large one. Given by the engine, never reused.
enum class RequestId : std::uint64_t {};

struct BatchLimits {
  std::int64_t max_rows = 32;             // rows in one batch, at least 1
  std::int64_t max_queued_rows = 1024;    // rows waiting before new work is refused
  std::chrono::microseconds max_wait{0};  // age at which a short batch is run; 0: as soon as an instance is free
};

// Life: one per loaded version; requests still held at destruction are the owner's to fail.
// Threads: not thread-safe, guarded by its owner. README.md, "Why batches wait".
class Batcher {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  // Dimensions that the signature leaves free, in one list: only requests with the same ones run together.
  using Group = std::vector<std::int64_t>;

  enum class Reason : std::uint8_t { kFree, kFull, kDue };
  struct Batch {
    std::vector<RequestId> ids;  // in order of arrival
    std::int64_t rows = 0;
    Reason reason = Reason::kFree;
  };

  explicit Batcher(BatchLimits limits) : limits_(limits) {}

  // Queues a request of `rows`, 1 <= rows <= max_rows; its id is above all before it. `deadline`: when nobody wants the
  // answer any more; none: never. Errors: kInvalidArgument (rows), kOverloaded (queue full; retry after back-off).
  [[nodiscard]] Result<void> add(RequestId id, std::int64_t rows, const Group& group, TimePoint now,
                                 std::optional<TimePoint> deadline = std::nullopt);

  // Called when an instance is free. The next batch: the group whose oldest request has waited longest, among those
  // that are full or due; nullopt: none is. A request is never split. Call take_late() first.
  [[nodiscard]] std::optional<Batch> take(TimePoint now);

  // Requests whose deadline has come; they are forgotten.
  [[nodiscard]] std::vector<RequestId> take_late(TimePoint now);

  // Forgets a request, in logarithmic time; false: it is not waiting.
  bool cancel(RequestId id);

  // When take() will have something, if nothing more is added; nullopt: nothing waits.
  [[nodiscard]] std::optional<TimePoint> due_at() const;

  // Arrival of the oldest waiting request.
  [[nodiscard]] std::optional<TimePoint> oldest() const;

  [[nodiscard]] std::int64_t queued_rows() const { return queued_rows_; }
  [[nodiscard]] bool empty() const { return groups_.empty(); }

 private:
  struct Waiting {
    RequestId id;
    std::int64_t rows;
    TimePoint since;
    bool gone = false;  // cancelled or late: passed over
  };
  struct Queue {
    std::deque<Waiting> waiting;  // by id; neither the first nor the last is gone
    std::int64_t rows = 0;        // of those that are not gone
    std::size_t gone = 0;
  };
  using Groups = std::map<Group, Queue>;
  struct Deadline {
    TimePoint at;
    RequestId id;
    bool operator>(const Deadline& other) const { return at > other.at; }
  };

  void tidy(Groups::iterator group);

  const BatchLimits limits_;
  Groups groups_;                                            // without empty ones
  std::unordered_map<RequestId, Groups::iterator> waiting_;  // all that are not gone
  std::vector<Deadline> deadlines_;                          // a heap, earliest first; of some that have left, too
  std::int64_t queued_rows_ = 0;                             // sum of rows over all groups
};

}  // namespace slipway::inferencer

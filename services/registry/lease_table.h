// Who may write for which job, and until when. No thread, clock or disk in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::registry {

// Holds the leases that are in force; the caller keeps each job's last epoch and grants the next one.
// Threads: not thread-safe, owned by the writer.
class LeaseTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit LeaseTable(std::chrono::milliseconds duration) : duration_(duration) {}

  // Puts a lease in force until `now` + duration, in place of one the job may have.
  void grant(const Lease& lease, TimePoint now);

  // Gives the lease its full duration again. Errors: kConflict (not the lease in force).
  [[nodiscard]] Result<void> renew(const Lease& lease, TimePoint now);

  // Whether `lease` is the one in force; its end does not matter before take_expired() has been asked.
  // Errors: kConflict (another epoch, holder or token, or none).
  [[nodiscard]] Result<void> check(const Lease& lease) const;

  void release(const JobId& job) { held_.erase(job); }

  // The job of a lease that `holder` has in force.
  [[nodiscard]] std::optional<JobId> held_by(const WorkerId& holder) const;

  // Takes out the leases whose end is at or before `now`.
  [[nodiscard]] std::vector<Lease> take_expired(TimePoint now);

  // Moves every end: the registry itself stood still for `pause`, so holders could not be heard.
  void extend_all(std::chrono::steady_clock::duration pause);

  [[nodiscard]] std::chrono::milliseconds duration() const { return duration_; }
  [[nodiscard]] std::size_t size() const { return held_.size(); }

 private:
  struct Held {
    std::uint64_t epoch;
    WorkerId holder;
    std::string token;
    TimePoint end;
  };

  const std::chrono::milliseconds duration_;
  std::map<JobId, Held> held_;
};

}  // namespace slipway::registry

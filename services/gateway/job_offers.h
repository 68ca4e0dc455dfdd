// Tells idle trainers that jobs wait. No thread, clock or socket in here.
#pragma once

#include <chrono>
#include <map>
#include <vector>

#include "schema/messages.h"
#include "services/gateway/worker_table.h"

namespace slipway::gateway {

// An offer is a hint: the trainer claims at the registry, which gives out each job once, so that offers may be lost,
// come twice, late, or from several gateways. Trainers also claim by themselves when they become idle and every few
// seconds, so that what a gateway has missed is late and not lost.
// Life: of the table. Threads: not thread-safe, owned by the bus thread.
class JobOffers {
 public:
  using TimePoint = WorkerTable::TimePoint;
  struct Offer {
    Peer peer;
    JobId job;
  };
  static constexpr std::chrono::milliseconds kOfferEvery{
      1000};                                          // to one trainer, unless its heartbeat says it is idle anew
  static constexpr std::chrono::seconds kForget{30};  // a job whose end was missed is offered no longer
  static constexpr std::size_t kMaxJobs = 1'000;      // remembered

  explicit JobOffers(const WorkerTable& workers) : workers_(workers) {}

  // A job waits from now on, or does not any more.
  void on_job(const JobId& job, JobState state, TimePoint now);

  // As many idle trainers as jobs wait, in turn.
  [[nodiscard]] std::vector<Offer> offers(TimePoint now);

  // Offers no more: this gateway is stopping.
  void stop() { stopped_ = true; }

  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }

 private:
  const WorkerTable& workers_;
  std::map<JobId, TimePoint> waiting_;  // since when it is known
  std::map<Peer, TimePoint> offered_;   // when last
  Peer last_;                           // who was offered one last
  bool stopped_ = false;
};

}  // namespace slipway::gateway

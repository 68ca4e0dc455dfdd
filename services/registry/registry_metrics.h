// What the registry counts.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include "lib/base/error.h"
#include "lib/obs/metrics.h"
#include "schema/messages.h"

namespace slipway::registry {

// "createJob" and so on: the name of the message in envelope.capnp.
[[nodiscard]] const char* kind_name(const msg::Body& body);

// Threads: thread-safe. The families live in the process's metrics for ever, so one object per process is enough and
// several share the figures.
class RegistryMetrics {
 public:
  RegistryMetrics();
  void count_request(const char* kind, const char* code);
  void observe_commit(std::chrono::duration<double> took) { commit_seconds_.Observe(took.count()); }
  void set_stored_bytes(std::uint64_t bytes) { stored_bytes_.Set(static_cast<double>(bytes)); }
  void set_free_bytes(std::uint64_t bytes) { free_bytes_.Set(static_cast<double>(bytes)); }
  void set_uploads(std::size_t count) { uploads_.Set(static_cast<double>(count)); }
  void set_unreadable(std::size_t count) { unreadable_.Set(static_cast<double>(count)); }
  void count_handler_failure() { handler_failures_.Increment(); }
  void count_wrong_secret() { wrong_secrets_.Increment(); }
  // One that has ended.
  void note_backup(const msg::Backup& backup);
  void set_jobs(const std::array<std::int64_t, 7>& by_state);
  [[nodiscard]] std::int64_t queued_jobs() const { return static_cast<std::int64_t>(queued_jobs_.Value()); }
  [[nodiscard]] std::int64_t outstanding_jobs() const { return static_cast<std::int64_t>(outstanding_jobs_.Value()); }

 private:
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Histogram& commit_seconds_;
  prometheus::Gauge& stored_bytes_;
  prometheus::Gauge& free_bytes_;
  prometheus::Gauge& uploads_;
  prometheus::Gauge& queued_jobs_;
  prometheus::Gauge& outstanding_jobs_;
  prometheus::Gauge& unreadable_;
  prometheus::Counter& handler_failures_;
  prometheus::Counter& wrong_secrets_;
  prometheus::Counter& failed_backups_;
  prometheus::Gauge& last_backup_seconds_;
  prometheus::Gauge& last_backup_bytes_;
  prometheus::Gauge& damaged_chunks_;
  std::array<prometheus::Gauge*, 7> jobs_{};
};

}  // namespace slipway::registry

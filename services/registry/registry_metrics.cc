#include "services/registry/registry_metrics.h"

#include <variant>

namespace slipway::registry {
namespace {

// In the order of msg::Body.
constexpr std::array kKinds{"nothing",        "error",          "ok",
                            "hello",          "welcome",        "rehello",
                            "heartbeat",      "infer",          "inferred",
                            "cancel",         "runJob",         "inspect",
                            "inspected",      "openUpload",     "uploadOpened",
                            "uploadPart",     "abortUpload",    "getUpload",
                            "uploadedFiles",  "getChunk",       "commitDataset",
                            "datasetStored",  "getDataset",     "listDatasets",
                            "datasets",       "createJob",      "getJob",
                            "listJobs",       "jobs",           "cancelJob",
                            "listJobEvents",  "jobEvents",      "claimJob",
                            "reportJob",      "jobOrders",      "commitCheckpoint",
                            "getCheckpoint",  "checkpoints",    "publish",
                            "endAttempt",     "commitVersion",  "getVersion",
                            "listVersions",   "versions",       "getModel",
                            "listModels",     "models",         "moveAlias",
                            "listAliasMoves", "aliasMoves",     "changed",
                            "quarantineFile", "liftQuarantine", "listQuarantines",
                            "quarantines",    "listUnreadable", "unreadable",
                            "offerJob",       "otherProtocol",  "setServing",
                            "loadVersion",    "createBackup",   "listBackups",
                            "backups",        "deleteBackup",   "listBackupFiles",
                            "backupFiles",    "readBackup"};
static_assert(kKinds.size() == std::variant_size_v<msg::Body>);

constexpr std::array kStates{"queued", "starting", "running", "retrying", "succeeded", "failed", "cancelled"};

prometheus::Gauge& gauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(obs::metrics()).Add({});
}

prometheus::Counter& counter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(obs::metrics()).Add({});
}

}  // namespace

const char* kind_name(const msg::Body& body) { return kKinds[body.index()]; }

RegistryMetrics::RegistryMetrics()
    : requests_(prometheus::BuildCounter()
                    .Name("slipway_registry_requests_total")
                    .Help("Calls answered, by kind of message and code of the answer")
                    .Register(obs::metrics())),
      commit_seconds_(prometheus::BuildHistogram()
                          .Name("slipway_registry_commit_seconds")
                          .Help("Time to write and sync a commit")
                          .Register(obs::metrics())
                          .Add({}, obs::latency_buckets())),
      stored_bytes_(gauge("slipway_registry_stored_bytes", "Bytes in chunk files")),
      free_bytes_(gauge("slipway_registry_free_bytes", "Bytes free on the data folder's file system")),
      uploads_(gauge("slipway_registry_uploads", "Uploads that are known")),
      queued_jobs_(gauge("slipway_registry_queued_jobs", "Jobs that wait for a trainer")),
      outstanding_jobs_(gauge("slipway_registry_outstanding_jobs", "Jobs that wait for a trainer or have one")),
      unreadable_(gauge("slipway_registry_unreadable_records", "Records that this release cannot read, found so far")),
      handler_failures_(counter("slipway_registry_handler_failures_total", "Calls and chores that ended in a fault")),
      wrong_secrets_(counter("slipway_registry_wrong_secrets_total", "Calls refused for want of the cluster's secret")),
      failed_backups_(counter("slipway_registry_backup_failures_total", "Backups that were begun and not made")),
      last_backup_seconds_(gauge("slipway_registry_last_backup_timestamp_seconds",
                                 "When the last backup that was made began, since 1970; 0: there is none")),
      last_backup_bytes_(gauge("slipway_registry_last_backup_bytes", "What the last backup that was made consists of")),
      damaged_chunks_(gauge("slipway_registry_last_backup_damaged_chunks",
                            "Chunks that the last backup lacks, since the registry could not read them")) {
  auto& family = prometheus::BuildGauge().Name("slipway_registry_jobs").Help("Jobs by state").Register(obs::metrics());
  for (std::size_t i = 0; i < kStates.size(); ++i) jobs_[i] = &family.Add({{"state", kStates[i]}});
}

void RegistryMetrics::count_request(const char* kind, const char* code) {
  requests_.Add({{"kind", kind}, {"code", code}}).Increment();
}

void RegistryMetrics::note_backup(const msg::Backup& backup) {
  if (backup.state != msg::BackupState::kSucceeded) return failed_backups_.Increment();
  last_backup_seconds_.Set(static_cast<double>(backup.started_ms) / 1000);
  last_backup_bytes_.Set(static_cast<double>(backup.size_bytes));
  damaged_chunks_.Set(static_cast<double>(backup.damaged_chunks));
}

void RegistryMetrics::set_jobs(const std::array<std::int64_t, 7>& by_state) {
  for (std::size_t i = 0; i < by_state.size(); ++i) jobs_[i]->Set(static_cast<double>(by_state[i]));
  const auto in = [&](JobState state) { return static_cast<double>(by_state[static_cast<std::size_t>(state)]); };
  const double queued = in(JobState::kQueued) + in(JobState::kRetrying);
  queued_jobs_.Set(queued);
  outstanding_jobs_.Set(queued + in(JobState::kStarting) + in(JobState::kRunning));
}

}  // namespace slipway::registry

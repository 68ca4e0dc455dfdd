// Plain structs for every message between processes; field by field the structs of envelope.capnp, where each is
// explained. lib/wire/codec.h turns them into frames and back.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "schema/records.h"

namespace slipway::msg {

struct Nothing {};
struct OtherProtocol {};
struct Error {
  std::uint8_t code = 0;
  std::string message;
  std::uint32_t retry_after_ms = 0;
  std::string path;
};
struct Ok {};

enum class Role : std::uint16_t { kTrainer, kInferencer };
struct VersionKey {
  std::string model;
  std::uint64_t version = 0;
  auto operator<=>(const VersionKey&) const = default;
};
struct Hello {
  std::string release;
  Role role = Role::kTrainer;
  WorkerId worker_id;
  std::string host;
};
struct Welcome {
  std::string gateway_id;
};
struct Rehello {};
struct Heartbeat {
  std::uint32_t credits = 0;
  std::vector<VersionKey> loaded;
  bool draining = false;
};
struct Infer {
  std::string model;
  std::uint64_t version = 0;
  std::vector<TensorSpec> inputs;
  bool alone = false;
};
struct Inferred {
  std::vector<TensorSpec> outputs;
  std::uint32_t batch_rows = 0;
  std::uint32_t queue_us = 0;
  std::uint32_t compute_us = 0;
};
struct Cancel {
  std::uint64_t correlation = 0;
};
struct RunJob {
  Job job;
  Lease lease;
};
struct OfferJob {
  JobId job;
};
struct Inspect {
  StoredFile file;
  Signature signature;
};
struct Inspected {
  Signature signature;
};

struct OpenUpload {};
struct UploadOpened {
  UploadId upload;
};
struct UploadPart {
  UploadId upload;
  std::string file;
  std::uint64_t offset_bytes = 0;
  bool last = false;
  bool decompress = false;
};
struct AbortUpload {
  UploadId upload;
};
struct GetUpload {
  UploadId upload;
};
struct UploadedFiles {
  std::vector<StoredFile> files;
};
struct GetChunk {
  Digest digest;
};

struct CommitDataset {
  UploadId upload;
  std::string name;
  std::string actor{};
};
struct DatasetStored {
  Dataset dataset;
  bool created = false;
};
struct GetDataset {
  std::string name;
  std::uint64_t version = 0;
};
struct ListDatasets {
  std::string name;
  std::string after;
  std::uint32_t limit = 0;
  std::uint64_t after_version = 0;
};
struct Datasets {
  std::vector<Dataset> items;
};

struct CreateJob {
  Job job;
  std::string idempotency_key;
};
struct GetJob {
  JobId id;
};
struct ListJobs {
  JobId before;
  std::uint32_t limit = 0;
};
struct Jobs {
  std::vector<Job> items;
};
struct CancelJob {
  JobId id;
};
struct ListJobEvents {
  JobId job;
  std::uint64_t after = 0;
  std::uint32_t limit = 0;
};
struct JobEvents {
  std::vector<JobEvent> items;
};

struct ClaimJob {
  WorkerId worker;
  std::uint64_t number{};
};
struct ReportJob {
  Lease lease;
  std::vector<JobEvent> events;
  std::uint64_t number = 0;
};
struct JobOrders {
  bool cancel = false;
  std::uint32_t lease_ms = 0;
};
struct CommitCheckpoint {
  Lease lease;
  UploadId upload;
};
struct GetCheckpoint {
  JobId job;
};
struct Checkpoints {
  std::vector<Checkpoint> items;
};
struct Publish {
  Lease lease;
  UploadId upload;
  Signature signature;
  std::vector<Metric> metrics;
};
enum class Outcome : std::uint16_t { kFailed, kCancelled, kReleased };
struct EndAttempt {
  Lease lease;
  Outcome outcome = Outcome::kFailed;
  std::string reason;
  std::string message;
  bool retry = false;
};

struct CommitVersion {
  UploadId upload;
  std::string model;
  Signature signature;
  std::string actor;
  std::string idempotency_key{};
};
struct GetVersion {
  std::string model;
  std::uint64_t version = 0;
  std::string alias;
};
struct ListVersions {
  std::string model;
  std::uint64_t after = 0;
  std::uint32_t limit = 0;
};
struct Versions {
  std::vector<Version> items;
};
struct GetModel {
  std::string model;
};
struct ListModels {
  std::string after;
  std::uint32_t limit = 0;
};
struct Models {
  std::vector<Model> items;
};
struct MoveAlias {
  std::string model;
  std::string alias;
  std::uint64_t to = 0;
  bool check_expected = false;
  std::uint64_t expected = 0;
  std::string reason;
  std::string actor;
};
struct SetServing {
  std::string model;
  bool served = false;
  std::string actor;
};
struct LoadVersion {
  VersionKey version;
};
struct ListAliasMoves {
  std::string model;
  std::string alias{};
  std::uint64_t before = 0;
  std::uint32_t limit = 0;
};
struct AliasMoves {
  std::vector<AliasMove> items;
};

struct QuarantineFile {
  Quarantine quarantine;
};
struct LiftQuarantine {
  std::string model;
  std::uint64_t version = 0;
  std::string actor;
};
struct ListQuarantines {
  Digest after;
  std::uint32_t limit = 0;
};
struct Quarantines {
  std::vector<Quarantine> items;
};
struct UnreadableRecord {
  std::string family;
  std::string key;
  std::uint64_t size_bytes = 0;
  std::string reason;
};
struct ListUnreadable {
  std::uint32_t limit = 0;
};
struct Unreadable {
  std::vector<UnreadableRecord> items;
  std::uint64_t total = 0;
};

enum class BackupState : std::uint16_t { kRunning, kSucceeded, kFailed };
struct Backup {
  std::string id{};
  BackupState state = BackupState::kRunning;
  std::int64_t started_ms = 0;
  std::int64_t ended_ms = 0;
  std::uint64_t revision = 0;
  std::uint64_t chunks = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t copied_bytes = 0;
  std::uint64_t damaged_chunks = 0;
  std::string reason{};
  std::string actor{};
  std::string release{};
};
struct CreateBackup {
  std::uint32_t keep = 0;
  std::string actor;
};
struct ListBackups {
  std::string id;
};
struct Backups {
  std::vector<Backup> items;
};
struct DeleteBackup {
  std::string id;
  std::string actor;
};
struct BackupFile {
  std::string name;
  std::uint64_t size_bytes = 0;
};
struct ListBackupFiles {
  std::string id;
  std::uint64_t after = 0;
  std::uint32_t limit = 0;
};
struct BackupFiles {
  std::vector<BackupFile> items;
};
struct ReadBackup {
  std::string id;
  std::string file;
  std::uint64_t offset_bytes = 0;
};

enum class Subject : std::uint16_t { kJob, kModel, kDataset, kQuarantine, kNothing };
struct Changed {
  std::uint64_t revision = 0;
  Subject subject = Subject::kJob;
  std::string key;
  std::uint64_t last_event = 0;
  JobState state = JobState::kQueued;
};

// In the order of the union in envelope.capnp.
using Body = std::variant<Nothing, Error, Ok, Hello, Welcome, Rehello, Heartbeat, Infer, Inferred, Cancel, RunJob,
                          Inspect, Inspected, OpenUpload, UploadOpened, UploadPart, AbortUpload, GetUpload,
                          UploadedFiles, GetChunk, CommitDataset, DatasetStored, GetDataset, ListDatasets, Datasets,
                          CreateJob, GetJob, ListJobs, Jobs, CancelJob, ListJobEvents, JobEvents, ClaimJob, ReportJob,
                          JobOrders, CommitCheckpoint, GetCheckpoint, Checkpoints, Publish, EndAttempt, CommitVersion,
                          GetVersion, ListVersions, Versions, GetModel, ListModels, Models, MoveAlias, ListAliasMoves,
                          AliasMoves, Changed, QuarantineFile, LiftQuarantine, ListQuarantines, Quarantines,
                          ListUnreadable, Unreadable, OfferJob, OtherProtocol, SetServing, LoadVersion, CreateBackup,
                          ListBackups, Backups, DeleteBackup, ListBackupFiles, BackupFiles, ReadBackup>;

// Protocols of the wire that a process reads and writes, both ends included.
struct ProtocolRange {
  std::uint16_t oldest = 0;
  std::uint16_t newest = 0;
  bool operator==(const ProtocolRange&) const = default;
};

// What this release speaks. Added fields, kinds and enumerators need no new number: a change of what there is already
// does. A release speaks the one before it too, so that either may be replaced first.
inline constexpr ProtocolRange kProtocols{.oldest = 1, .newest = 1};

struct Envelope {
  std::uint64_t correlation = 0;  // 0: no answer wanted
  std::uint32_t deadline_ms = 0;  // time left when sent; 0: none
  std::string request_id;
  std::string secret{};                        // empty: none
  std::vector<std::uint64_t> payload_bytes{};  // set by the bus alone
  Body body;
  std::uint16_t protocol = kProtocols.oldest;  // that it is written in; set by the bus alone, as is the next
  ProtocolRange protocols = kProtocols;        // that its sender speaks
};

}  // namespace slipway::msg

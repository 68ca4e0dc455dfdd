// Plain structs for what the registry keeps; field by field the structs of records.capnp, where each is explained.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace slipway {

// A text id of one kind of thing; ids of two kinds do not mix. Empty: none.
template <class Tag>
class Id {
 public:
  Id() = default;
  explicit Id(std::string text) : text_(std::move(text)) {}
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] bool empty() const { return text_.empty(); }
  auto operator<=>(const Id&) const = default;

 private:
  std::string text_;
};
using JobId = Id<struct JobTag>;
using WorkerId = Id<struct WorkerTag>;
using UploadId = Id<struct UploadTag>;

// A SHA-256; all zero: none.
struct Digest {
  std::array<std::uint8_t, 32> bytes{};
  [[nodiscard]] bool empty() const { return *this == Digest{}; }
  auto operator<=>(const Digest&) const = default;
};

enum class DType : std::uint16_t { kF32, kF64, kF16, kBf16, kI64, kI32, kI16, kI8, kU8, kB8 };

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  bool operator==(const TensorSpec&) const = default;
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<std::string> classes;
  bool logits = false;
  bool operator==(const Signature&) const = default;
};

struct Metric {
  std::string name;
  double value = 0;
  bool operator==(const Metric&) const = default;
};

struct StoredFile {
  std::string name;
  std::uint64_t size_bytes = 0;
  Digest digest;
  std::vector<Digest> chunks;
  bool operator==(const StoredFile&) const = default;
};

struct Column {
  std::string name;
  bool text = false;
  double min = 0;
  double max = 0;
  bool integral = false;
  std::vector<std::string> categories;
  bool operator==(const Column&) const = default;
};

struct Dataset {
  std::string name;
  std::uint64_t version = 0;
  Digest digest;
  std::string format;
  std::uint64_t rows = 0;
  std::uint64_t test_rows = 0;
  std::vector<std::int64_t> row_shape;
  DType dtype = DType::kF32;
  std::uint64_t classes = 0;
  std::vector<Column> columns;
  std::vector<StoredFile> files;
  std::int64_t created_ms = 0;
  std::uint64_t size_bytes = 0;
  std::string actor{};
  bool operator==(const Dataset&) const = default;
};

enum class JobState : std::uint16_t { kQueued, kStarting, kRunning, kRetrying, kSucceeded, kFailed, kCancelled };

struct Progress {
  std::uint32_t epoch = 0;
  std::uint32_t epochs = 0;
  std::uint64_t step = 0;
  std::uint64_t steps = 0;
  double rows_per_second = 0;
  double seconds_left = -1;
  double learning_rate = 0;
  std::vector<Metric> metrics;
  bool operator==(const Progress&) const = default;
};

struct Job {
  JobId id;
  JobState state = JobState::kQueued;
  std::string document;
  Digest spec_digest;
  std::string model;
  std::string dataset;
  std::uint64_t dataset_version = 0;
  Digest dataset_digest;
  std::uint64_t seed = 0;
  std::uint32_t attempt = 0;
  bool cancel_requested = false;
  std::string reason;
  std::string message;
  std::int64_t created_ms = 0;
  std::int64_t started_ms = 0;
  std::int64_t finished_ms = 0;
  std::uint64_t version = 0;
  Progress progress;
  WorkerId worker;
  std::string request_id;
  std::string actor{};
  bool operator==(const Job&) const = default;
};

struct JobEvent {
  std::uint64_t id = 0;
  std::int64_t at_ms = 0;
  std::string kind;
  JobState state = JobState::kQueued;
  std::string message;
  Progress progress;
  bool operator==(const JobEvent&) const = default;
};

struct Checkpoint {
  JobId job;
  std::uint64_t number = 0;
  std::uint32_t attempt = 0;
  std::vector<StoredFile> files;
  std::int64_t at_ms = 0;
  bool operator==(const Checkpoint&) const = default;
};

struct Lease {
  JobId job;
  std::uint64_t epoch = 0;
  WorkerId holder;
  std::uint32_t duration_ms = 0;
  std::string token{};
  bool operator==(const Lease&) const = default;
};

struct Lineage {
  JobId job;
  std::string dataset;
  std::uint64_t dataset_version = 0;
  Digest dataset_digest;
  Digest spec_digest;
  std::uint64_t seed = 0;
  bool operator==(const Lineage&) const = default;
};

struct Version {
  std::string model;
  std::uint64_t number = 0;
  Signature signature;
  std::vector<Metric> metrics;
  Lineage lineage;
  std::vector<StoredFile> files;
  bool uploaded = false;
  std::int64_t created_ms = 0;
  std::string actor;
  std::string quarantined{};
  bool operator==(const Version&) const = default;
};

struct Quarantine {
  Digest digest;
  std::string model;
  std::uint64_t version = 0;
  std::string reason;
  std::int64_t at_ms = 0;
  bool operator==(const Quarantine&) const = default;
};

struct Alias {
  std::string name;
  std::uint64_t version = 0;
  bool operator==(const Alias&) const = default;
};

struct Model {
  std::string name;
  std::uint64_t latest = 0;
  std::vector<Alias> aliases;
  std::int64_t created_ms = 0;
  std::int64_t updated_ms = 0;
  bool unloaded = false;
  std::string serving_actor{};
  std::int64_t serving_at_ms = 0;
  bool operator==(const Model&) const = default;
};

struct AliasMove {
  std::string model;
  std::string alias;
  std::uint64_t from = 0;
  std::uint64_t to = 0;
  std::string reason;
  std::string actor;
  std::int64_t at_ms = 0;
  std::uint64_t number = 0;
  bool operator==(const AliasMove&) const = default;
};

}  // namespace slipway

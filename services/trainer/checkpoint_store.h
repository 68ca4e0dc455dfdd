// Checkpoints of a job in the registry: two files, state.json and tensors.safetensors, whole or absent.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "lib/wire/caller.h"
#include "services/trainer/training.h"

namespace slipway::trainer {

// Writes, uploads and commits a snapshot; waits for the registry. Nothing is left open there when it fails.
// Errors: kConflict (the lease is lost), kUnavailable, kDeadlineExceeded, and what the registry says.
[[nodiscard]] Result<void> commit_checkpoint(Caller& registry, const Lease& lease, const Snapshot& snapshot);

// The job's last checkpoint; nullopt: none. Errors: kDataLoss (damaged), kUnavailable, kDeadlineExceeded.
[[nodiscard]] Result<std::optional<Snapshot>> load_checkpoint(Caller& registry, const JobId& job);

// Commits snapshots in a thread of its own, one at a time, so that training does not wait for the registry.
// Life: the destructor waits for a commit that is under way. Threads: any.
class CheckpointWriter {
 public:
  // `done` is called in the writer's thread after each. One that throws is logged.
  using Done = std::function<void(const Result<void>&)>;
  CheckpointWriter(Caller& registry, Lease lease, Done done);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  [[nodiscard]] bool busy() const;
  void submit(Snapshot snapshot);  // not while busy
  void wait();                     // until not busy

 private:
  void run();
  [[nodiscard]] Result<void> commit(const Snapshot& snapshot);
  void commit_and_tell(const Snapshot& snapshot);

  Caller& registry_;
  const Lease lease_;
  const Done done_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Snapshot> next_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace slipway::trainer

#include "services/trainer/checkpoint_store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>

#include "lib/base/log.h"
#include "lib/wire/blob_transfer.h"
#include "services/trainer/metrics.h"
#include "services/trainer/safetensors.h"
#include "services/trainer/upload_guard.h"

namespace slipway::trainer {
namespace {

constexpr const char* kStateFile = "state.json";
constexpr const char* kTensorFile = "tensors.safetensors";

const Caller::Options kCall{
    .deadline = std::chrono::seconds(10), .repeat_after = std::chrono::seconds(2), .request_id = {}};

}  // namespace

Result<void> commit_checkpoint(Caller& registry, const Lease& lease, const Snapshot& snapshot) {
  const auto tensors = write_safetensors(snapshot.tensors);
  if (!tensors) return std::unexpected(tensors.error());
  const auto upload = open_upload(registry);
  if (!upload) return std::unexpected(upload.error());
  UploadGuard guard(registry, *upload);
  if (auto sent = upload_file(registry, *upload, kStateFile, std::as_bytes(std::span(snapshot.state))); !sent)
    return sent;
  if (auto sent = upload_file(registry, *upload, kTensorFile, *tensors); !sent) return sent;
  auto answer = Caller::as<msg::Ok>(registry.call_and_wait(msg::CommitCheckpoint{lease, *upload}, {}, kCall));
  if (!answer) return std::unexpected(std::move(answer).error());
  guard.taken();
  return {};
}

Result<std::optional<Snapshot>> load_checkpoint(Caller& registry, const JobId& job) {
  auto answer = Caller::as<msg::Checkpoints>(registry.call_and_wait(msg::GetCheckpoint{job}, {}, kCall));
  if (!answer) return std::unexpected(std::move(answer).error());
  if (answer->items.empty()) return std::nullopt;
  const auto& files = answer->items.front().files;
  const auto state = std::ranges::find(files, kStateFile, &StoredFile::name);
  const auto tensors = std::ranges::find(files, kTensorFile, &StoredFile::name);
  if (state == files.end() || tensors == files.end()) {
    return fail(Code::kDataLoss, "a checkpoint without state.json or tensors.safetensors");
  }
  const auto state_bytes = download(registry, *state);
  if (!state_bytes) return std::unexpected(state_bytes.error());
  const auto tensor_bytes = download(registry, *tensors);
  if (!tensor_bytes) return std::unexpected(tensor_bytes.error());
  auto read = read_safetensors(*tensor_bytes);
  if (!read) return std::unexpected(std::move(read).error());
  return Snapshot{std::string(reinterpret_cast<const char*>(state_bytes->data()), state_bytes->size()),
                  std::move(*read)};
}

CheckpointWriter::CheckpointWriter(Caller& registry, Lease lease, Done done)
    : registry_(registry), lease_(std::move(lease)), done_(std::move(done)), thread_([this] { run(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool CheckpointWriter::busy() const {
  const std::lock_guard lock(mutex_);
  return busy_;
}

void CheckpointWriter::submit(Snapshot snapshot) {
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(snapshot);
    busy_ = true;
  }
  changed_.notify_all();
}

void CheckpointWriter::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !busy_; });
}

// Nothing that is thrown here may end the process: training goes on without this checkpoint.
Result<void> CheckpointWriter::commit(const Snapshot& snapshot) {
  try {
    return commit_checkpoint(registry_, lease_, snapshot);
  } catch (const std::exception& e) {
    spdlog::error("checkpoint failed job={} reason={}", lease_.job.text(), log_value(e.what()));
    return fail(Code::kInternal, e.what());
  }
}

void CheckpointWriter::commit_and_tell(const Snapshot& snapshot) {
  try {
    const auto begun = std::chrono::steady_clock::now();
    const auto result = commit(snapshot);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    metrics().checkpoint_time.Observe(took.count());
    metrics().checkpoints.Add({{"result", result ? "ok" : std::string(code_name(result.error().code))}}).Increment();
    done_(result);
  } catch (const std::exception& e) {
    spdlog::error("end of a checkpoint not told job={} reason={}", lease_.job.text(), log_value(e.what()));
  }
}

void CheckpointWriter::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || next_.has_value(); });
    if (!next_) return;
    const Snapshot snapshot = std::move(*next_);
    next_.reset();
    lock.unlock();
    commit_and_tell(snapshot);
    lock.lock();
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace slipway::trainer

#include "services/registry/backup_maker.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <format>
#include <memory>

#include "lib/base/log.h"
#include "lib/base/release.h"
#include "services/registry/durable_file.h"

namespace slipway::registry {
namespace {

namespace fs = std::filesystem;

std::int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Error being_made(const std::string& id) {
  return {.code = Code::kConflict,
          .message = id.empty() ? "a backup is being deleted" : std::format("backup {} is being made", id),
          .path = {}};
}

}  // namespace

BackupMaker::BackupMaker(Options options, const RocksStore& store, const ChunkStore& chunks,
                         std::shared_mutex& deleting, OnEnd on_end)
    : options_(std::move(options)),
      store_(store),
      chunks_(chunks),
      deleting_(deleting),
      on_end_(std::move(on_end)),
      folder_(options_.folder) {}

BackupMaker::~BackupMaker() { stop(); }

// One that no other has had, also of those that are deleted.
std::string BackupMaker::new_id(std::int64_t now_ms) {
  const std::chrono::sys_time<std::chrono::milliseconds> now{std::chrono::milliseconds(now_ms)};
  const std::string time = std::format("{:%Y%m%dT%H%M%SZ}", std::chrono::floor<std::chrono::seconds>(now));
  int& number = numbers_[time];
  std::string id;
  std::error_code ignored;
  do {
    id = ++number == 1 ? time : std::format("{}-{}", time, number);
  } while (fs::exists(folder_.path_of(id), ignored));
  return id;
}

Result<msg::Backup> BackupMaker::begin(std::uint32_t keep, std::string actor, std::int64_t now_ms) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return fail(Code::kUnavailable, "the registry is stopping");
  if (busy_) return std::unexpected(being_made(current_ ? current_->id : ""));
  if (thread_.joinable()) thread_.join();  // it has ended: busy_ is the last that it changes
  busy_ = true;
  current_ = msg::Backup{.id = new_id(now_ms),
                         .started_ms = now_ms,
                         .revision = store_.revision(),
                         .actor = std::move(actor),
                         .release = std::string(kRelease)};
  thread_ = std::jthread([this, keep](const std::stop_token& stopping) { run(stopping, keep); });
  return *current_;
}

Result<std::vector<msg::Backup>> BackupMaker::list(const std::string& id) const {
  // First, so that one that ends meanwhile is not missed.
  std::vector<msg::Backup> here;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& one : {failed_, current_}) {
      if (one && (id.empty() || one->id == id)) here.push_back(*one);
    }
  }
  if (!id.empty()) {
    if (!here.empty()) return here;
    auto known = folder_.manifest(id);
    if (!known) return std::unexpected(std::move(known).error());
    return std::vector{std::move(known->backup)};
  }
  auto all = folder_.list();
  if (!all) return all;
  for (msg::Backup& one : here) {
    // One that is whole is not done yet while older ones are deleted.
    std::erase_if(*all, [&](const msg::Backup& backup) { return backup.id == one.id; });
    all->push_back(std::move(one));
  }
  std::ranges::stable_sort(*all, {}, &msg::Backup::started_ms);
  return all;
}

Result<void> BackupMaker::remove(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    if (busy_) return std::unexpected(being_made(current_ ? current_->id : ""));
    busy_ = true;
  }
  const std::shared_ptr<void> done(nullptr, [this](void*) {
    const std::lock_guard lock(mutex_);
    busy_ = false;
  });
  auto removed = folder_.remove(id);
  if (removed) {
    if (const auto swept = folder_.sweep(); !swept) {
      spdlog::warn("chunks of a deleted backup stay backup={} message={}", id, log_value(swept.error().message));
    }
  }
  return removed;
}

void BackupMaker::stop() {
  std::jthread last;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    last = std::move(thread_);
  }
  last.request_stop();
}

void BackupMaker::note(const std::function<void(msg::Backup&)>& change) {
  const std::lock_guard lock(mutex_);
  change(*current_);
}

void BackupMaker::run(const std::stop_token& stopping, std::uint32_t keep) {
  const std::string id = [this] {
    const std::lock_guard lock(mutex_);
    return current_->id;
  }();
  Result<BackupManifest> made = fail(Code::kInternal, "");
  try {
    made = make(stopping, id);
  } catch (const std::exception& failure) {
    made = fail(Code::kInternal, std::format("a fault of the registry: {}", failure.what()));
  }
  try {
    if (const auto thinned = made && keep > 0 ? thin_out(keep, id) : Result<void>(); !thinned)
      spdlog::warn("old backups stay message={}", log_value(thinned.error().message));
  } catch (const std::exception& failure) {
    spdlog::warn("old backups stay message={}", log_value(failure.what()));
  }
  try {
    if (made) {
      const msg::Backup& ended = made->backup;
      spdlog::info("backup made id={} revision={} chunks={} bytes={} copied={} damaged={}", id, ended.revision,
                   ended.chunks, ended.size_bytes, ended.copied_bytes, ended.damaged_chunks);
    } else {
      std::error_code ignored;
      fs::remove_all(folder_.path_of(id), ignored);
      spdlog::error("backup failed id={} message={}", id, log_value(made.error().message));
    }
  } catch (const std::exception& failure) {
    spdlog::error("backup not tidied up id={} message={}", id, log_value(failure.what()));
  }
  const std::lock_guard lock(mutex_);
  try {
    if (!made) failed_ = failed(made.error());
    on_end_(made ? made->backup : *failed_);
  } catch (const std::exception& failure) {
    spdlog::error("end of a backup not noted id={} message={}", id, log_value(failure.what()));
  }
  current_.reset();
  busy_ = false;
}

// Under the lock: what is being made, ended with `why`.
msg::Backup BackupMaker::failed(const Error& why) const {
  msg::Backup ended = *current_;
  ended.state = msg::BackupState::kFailed;
  ended.ended_ms = unix_ms();
  ended.reason = std::format("{}: {}", options_.folder.string(), why.message);
  return ended;
}

Result<BackupManifest> BackupMaker::make(const std::stop_token& stopping, const std::string& id) {
  const auto given_up = [] { return fail(Code::kUnavailable, "given up: the registry stops"); };
  if (auto begun = folder_.begin(id); !begun) return std::unexpected(std::move(begun).error());
  auto target = ChunkStore::open(folder_.chunks_path(), options_.min_free_bytes);
  if (!target) return std::unexpected(std::move(target).error());

  std::vector<Digest> kept;
  {
    const std::lock_guard lock(deleting_);
    note([this](msg::Backup& backup) { backup.revision = store_.revision(); });
    if (auto written = store_.write_checkpoint(folder_.path_of(id) / "db"); !written)
      return std::unexpected(std::move(written).error());
    auto all = wanted_chunks();
    if (!all) return std::unexpected(std::move(all).error());
    for (const Digest& digest : *all) {
      if (stopping.stop_requested()) return given_up();
      const auto size = chunks_.size_of(digest);
      std::uint64_t copied = 0;
      if ((*target)->size_of(digest) != size || !size) {
        auto bytes = chunks_.get(digest);
        if (!bytes) {
          // An earlier backup may have it still.
          if ((*target)->get(digest)) {
            kept.push_back(digest);
            continue;
          }
          spdlog::error("backup without a chunk that cannot be read id={} message={}", id,
                        log_value(bytes.error().message));
          note([](msg::Backup& backup) { ++backup.damaged_chunks; });
          continue;
        }
        if (auto put = (*target)->put(digest, *bytes); !put) return std::unexpected(std::move(put).error());
        copied = bytes->size();
      }
      kept.push_back(digest);
      note([&](msg::Backup& backup) {
        backup.chunks = kept.size();
        backup.size_bytes += size.value_or(copied);
        backup.copied_bytes += copied;
      });
    }
  }
  if (auto copied = copy_synced(options_.data_dir / "format", folder_.path_of(id) / "format", "the format"); !copied)
    return std::unexpected(std::move(copied).error());
  if (stopping.stop_requested()) return given_up();
  msg::Backup backup;
  note([&](msg::Backup& current) {
    current.ended_ms = unix_ms();
    backup = current;
  });
  return folder_.finish(std::move(backup), kept);
}

// Those that are there, and those that should be.
Result<std::vector<Digest>> BackupMaker::wanted_chunks() const {
  auto there = chunks_.digests();
  if (!there) return there;
  DigestSet wanted(there->begin(), there->end());
  const auto add = [&](std::string_view, const auto& record) -> Result<bool> {
    for (const StoredFile& file : record.files) wanted.insert(file.chunks.begin(), file.chunks.end());
    return true;
  };
  auto read = store_.scan_records<Dataset>(Family::kDatasets, "", "", add);
  if (read) read = store_.scan_records<Version>(Family::kVersions, "", "", add);
  if (read) read = store_.scan_records<Checkpoint>(Family::kCheckpoints, "", "", add);
  if (!read) return std::unexpected(std::move(read).error());
  std::vector<Digest> all(wanted.begin(), wanted.end());
  std::ranges::sort(all, {}, &Digest::bytes);
  return all;
}

Result<void> BackupMaker::thin_out(std::uint32_t keep, const std::string& newest) const {
  const auto all = folder_.list();
  if (!all) return std::unexpected(all.error());
  std::vector<msg::Backup> older;
  std::string complete;
  for (const msg::Backup& backup : *all) {
    if (backup.state != msg::BackupState::kSucceeded) continue;
    if (backup.damaged_chunks == 0 && complete != newest) complete = backup.id;
    if (backup.id != newest) older.push_back(backup);
  }
  for (std::size_t i = 0; i + keep <= older.size(); ++i) {
    if (older[i].id == complete) continue;
    if (auto removed = folder_.remove(older[i].id); !removed) return removed;
    spdlog::info("old backup deleted id={}", older[i].id);
  }
  if (const auto swept = folder_.sweep(); !swept) return std::unexpected(swept.error());
  return {};
}

}  // namespace slipway::registry

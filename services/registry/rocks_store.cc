#include "services/registry/rocks_store.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_buffer_manager.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <format>
#include <limits>
#include <mutex>

#include "lib/base/log.h"
#include "services/registry/chunk_store.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;

constexpr std::array<const char*, kFamilies> kNames{"meta",        "datasets", "jobs",     "documents", "job_events",
                                                    "checkpoints", "leases",   "versions", "models",    "alias_moves"};
constexpr const char* kRevisionKey = "revision";

// RocksDB asserts that a slice points somewhere, also an empty one.
rocksdb::Slice slice(std::string_view text) { return {text.empty() ? "" : text.data(), text.size()}; }
std::string_view view(rocksdb::Slice slice) { return {slice.data(), slice.size()}; }

bool is_full(const rocksdb::Status& status) {
  return status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit;
}

Error to_error(const rocksdb::Status& status) {
  Error error{.code = Code::kInternal, .message = "the registry's database: " + status.ToString(), .path = {}};
  if (is_full(status)) {
    error = {.code = Code::kUnavailable,
             .message = "the registry's disk is full: nothing can be written until there is room",
             .path = {},
             .retry_after = 5s};
  } else if (status.IsCorruption()) {
    error.code = Code::kDataLoss;
  } else if (status.IsBusy() || status.IsTryAgain() || status.IsShutdownInProgress()) {
    error.code = Code::kUnavailable;
  }
  return error;
}

// Remembers a background error that RocksDB cannot get over by itself. Called from RocksDB's threads.
class Watch : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* status) override {
    const bool fatal = status->severity() >= rocksdb::Status::kFatalError;
    spdlog::log(fatal ? spdlog::level::err : spdlog::level::warn, "database background error fatal={} error=\"{}\"",
                fatal, status->ToString());
    const std::lock_guard lock(mutex_);
    if (fatal) fatal_ = status->ToString();
  }
  void OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& info) override {
    if (!info.new_bg_error.ok()) return;
    spdlog::info("database recovered");
    const std::lock_guard lock(mutex_);
    fatal_.clear();
  }
  std::string fatal() const {
    const std::lock_guard lock(mutex_);
    return fatal_;
  }

 private:
  mutable std::mutex mutex_;
  std::string fatal_;
};

// Small: the records are small, the bytes are in chunk files. SetOptions is never called (it loses values on 9.10).
rocksdb::DBOptions database_options(const std::shared_ptr<rocksdb::Cache>& cache, rocksdb::Env* env) {
  rocksdb::DBOptions options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  options.max_open_files = 256;
  options.max_background_jobs = 2;
  options.max_total_wal_size = 32 << 20;
  options.max_log_file_size = 4 << 20;
  options.keep_log_file_num = 4;
  options.max_manifest_file_size = 16 << 20;
  options.bytes_per_sync = 1 << 20;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.allow_data_in_errors = false;
  options.write_buffer_manager = std::make_shared<rocksdb::WriteBufferManager>(16 << 20, cache);
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.max_bgerror_resume_count = std::numeric_limits<int>::max();
  options.bgerror_resume_retry_interval = 1'000'000;  // microseconds
  return options;
}

rocksdb::ColumnFamilyOptions family_options(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = 4 << 20;
  options.max_write_buffer_number = 2;
  options.max_write_buffer_size_to_maintain = 0;
  options.arena_block_size = 64 << 10;
  options.memtable_protection_bytes_per_key = 8;
  options.paranoid_file_checks = true;
  options.compression = rocksdb::kLZ4Compression;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

struct RocksStore::State {
  std::filesystem::path folder;
  Options options;
  std::shared_ptr<Watch> watch = std::make_shared<Watch>();
  std::unique_ptr<rocksdb::DB> db;
  std::vector<rocksdb::ColumnFamilyHandle*> families;  // ours, then those of a later release
  mutable UnreadableRecords unreadable;
  std::atomic<std::uint64_t> revision{0};
  OnCommit on_commit;

  ~State() {
    for (auto* family : families) {
      if (auto status = db->DestroyColumnFamilyHandle(family); !status.ok()) {
        spdlog::error("database family not released error=\"{}\"", status.ToString());
      }
    }
    if (!db) return;
    if (auto status = db->Close(); !status.ok()) spdlog::error("database not closed error=\"{}\"", status.ToString());
  }

  [[nodiscard]] rocksdb::ColumnFamilyHandle* family(Family family) const {
    return families[static_cast<std::size_t>(family)];
  }

  // Below this RocksDB may not be able to get its own files into order any more.
  [[nodiscard]] Result<void> check_room() const {
    const auto free = free_bytes(folder);
    if (!free) return std::unexpected(free.error());
    if (*free >= options.min_free_bytes / 4) return {};
    return std::unexpected(Error{.code = Code::kUnavailable,
                                 .message = std::format("the registry's disk is full: {} bytes are free, {} are wanted "
                                                        "for a write",
                                                        *free, options.min_free_bytes / 4),
                                 .path = {},
                                 .retry_after = 5s});
  }
};

RocksStore::RocksStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
RocksStore::~RocksStore() = default;

Result<std::unique_ptr<RocksStore>> RocksStore::open(const std::filesystem::path& folder, Options options) {
  if (auto made = make_folder(folder); !made) return std::unexpected(std::move(made).error());

  auto state = std::make_unique<State>();
  state->folder = folder;
  state->options = options;
  const auto cache = rocksdb::NewLRUCache(16 << 20, 2);
  auto database = database_options(cache, options.env);
  database.listeners.push_back(state->watch);
  std::vector<rocksdb::ColumnFamilyDescriptor> families{{rocksdb::kDefaultColumnFamilyName, family_options(cache)}};
  for (const char* name : kNames) families.emplace_back(name, family_options(cache));
  // RocksDB opens all families or none: those of a later release are kept as they are.
  std::vector<std::string> there;
  if (rocksdb::DB::ListColumnFamilies(database, folder.string(), &there).ok()) {
    for (const std::string& name : there) {
      if (std::ranges::contains(families, name, &rocksdb::ColumnFamilyDescriptor::name)) continue;
      spdlog::warn("database family of a later release left alone family={}", log_value(name));
      families.emplace_back(name, family_options(cache));
    }
  }

  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  const auto status = rocksdb::DB::Open(database, folder.string(), families, &handles, &db);
  state->db.reset(db);
  if (!status.ok()) {
    auto failed = to_error(status);
    if (failed.code == Code::kInternal) failed.code = Code::kUnavailable;
    failed.message = std::format("{}: {}", folder.string(), failed.message);
    return std::unexpected(std::move(failed));
  }
  if (auto dropped = db->DestroyColumnFamilyHandle(handles[0]); !dropped.ok()) {  // the default family, unused
    return std::unexpected(to_error(dropped));
  }
  state->families.assign(handles.begin() + 1, handles.end());

  std::unique_ptr<RocksStore> store(new RocksStore(std::move(state)));
  auto revision = store->get(Family::kMeta, kRevisionKey);
  if (!revision) return std::unexpected(std::move(revision).error());
  if (*revision) {
    std::uint64_t number = 0;
    const auto& text = **revision;
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (bad != std::errc() || end != text.data() + text.size()) {
      return fail(Code::kDataLoss, std::format("{}: the revision number is damaged", folder.string()));
    }
    store->state_->revision = number;
  }
  return store;
}

void RocksStore::on_commit(OnCommit handler) { state_->on_commit = std::move(handler); }

Result<std::optional<std::string>> RocksStore::get(Family family, std::string_view key) const {
  std::string value;
  const auto status = state_->db->Get(rocksdb::ReadOptions(), state_->family(family), slice(key), &value);
  if (status.IsNotFound()) return std::nullopt;
  if (status.IsCorruption()) return std::unexpected(set_aside(family, key, 0, status.ToString()));
  if (!status.ok()) return std::unexpected(to_error(status));
  return value;
}

Error RocksStore::set_aside(Family family, std::string_view key, std::size_t size_bytes,
                            const std::string& reason) const {
  const char* name = kNames.at(static_cast<std::size_t>(family));
  state_->unreadable.note(name, key, size_bytes, reason);
  const bool plain = std::ranges::all_of(key, [](char c) { return c >= 0x20 && c < 0x7f; });
  return {.code = Code::kDataLoss,
          .message = std::format("record '{}' of the family {} cannot be read by this release: {}",
                                 plain ? key : std::string_view("?"), name, reason),
          .path = {}};
}

const UnreadableRecords& RocksStore::unreadable() const { return state_->unreadable; }

Result<void> RocksStore::scan_later_families(const Visit& visit) const {
  for (std::size_t i = kFamilies; i < state_->families.size(); ++i) {
    const std::unique_ptr<rocksdb::Iterator> at(state_->db->NewIterator(rocksdb::ReadOptions(), state_->families[i]));
    for (at->SeekToFirst(); at->Valid(); at->Next()) {
      auto go_on = visit(view(at->key()), view(at->value()));
      if (!go_on) return std::unexpected(std::move(go_on).error());
      if (!*go_on) return {};
    }
    if (!at->status().ok()) return std::unexpected(to_error(at->status()));
  }
  return {};
}

Result<void> RocksStore::scan(Family family, std::string_view from, std::string_view end, const Visit& visit) const {
  const rocksdb::Slice upper = slice(end);
  rocksdb::ReadOptions options;
  if (!end.empty()) options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> at(state_->db->NewIterator(options, state_->family(family)));
  for (at->Seek(slice(from)); at->Valid(); at->Next()) {
    auto go_on = visit(view(at->key()), view(at->value()));
    if (!go_on) return std::unexpected(std::move(go_on).error());
    if (!*go_on) break;
  }
  if (!at->status().ok()) return std::unexpected(to_error(at->status()));
  return {};
}

Result<void> RocksStore::scan_back(Family family, std::string_view from, std::string_view end,
                                   const Visit& visit) const {
  const rocksdb::Slice upper = slice(end);
  const rocksdb::Slice lower = slice(from);
  rocksdb::ReadOptions options;
  options.iterate_lower_bound = &lower;
  if (!end.empty()) options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> at(state_->db->NewIterator(options, state_->family(family)));
  for (at->SeekToLast(); at->Valid(); at->Prev()) {
    auto go_on = visit(view(at->key()), view(at->value()));
    if (!go_on) return std::unexpected(std::move(go_on).error());
    if (!*go_on) break;
  }
  if (!at->status().ok()) return std::unexpected(to_error(at->status()));
  return {};
}

Result<void> RocksStore::commit(Batch batch) {
  if (!batch.fits_) return batch.fits_;
  if (auto room = state_->check_room(); !room) return room;

  const auto started = std::chrono::steady_clock::now();
  const std::uint64_t revision = state_->revision + (batch.quiet_ ? 0 : 1);
  rocksdb::WriteBatch writes(0, 0, 8, 0);  // 8: protection bytes per key
  rocksdb::Status status;
  for (const auto& step : batch.steps_) {
    auto* family = state_->family(step.family);
    status =
        step.value ? writes.Put(family, slice(step.key), slice(*step.value)) : writes.Delete(family, slice(step.key));
    if (!status.ok()) return std::unexpected(to_error(status));
  }
  status = writes.Put(state_->family(Family::kMeta), kRevisionKey, std::to_string(revision));
  if (!status.ok()) return std::unexpected(to_error(status));

  rocksdb::WriteOptions synced;
  synced.sync = true;
  status = state_->db->Write(synced, &writes);
  if (!status.ok() && state_->watch->fatal().empty()) {
    // RocksDB tries to recover by itself every second; there may be room already.
    if (state_->db->Resume().ok()) status = state_->db->Write(synced, &writes);
  }
  if (!status.ok()) return std::unexpected(to_error(status));

  state_->revision = revision;
  for (const auto& step : batch.steps_) {
    state_->unreadable.forget(kNames.at(static_cast<std::size_t>(step.family)), step.key);
  }
  for (auto& change : batch.changes_) change.revision = revision;
  if (state_->on_commit) state_->on_commit(batch.changes_, std::chrono::steady_clock::now() - started);
  return {};
}

Result<void> RocksStore::write_checkpoint(const std::filesystem::path& folder) const {
  rocksdb::Checkpoint* made = nullptr;
  auto status = rocksdb::Checkpoint::Create(state_->db.get(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  // What is only in memory goes into files first, so that little of the log is copied.
  if (status.ok()) status = checkpoint->CreateCheckpoint(folder.string(), 0);
  if (!status.ok()) return std::unexpected(to_error(status));
  return {};
}

Result<void> RocksStore::advance_revision(std::uint64_t revision) {
  const std::uint64_t before = state_->revision.exchange(revision);
  Batch nothing;
  nothing.stay_quiet();
  auto written = commit(std::move(nothing));
  if (!written) state_->revision = before;
  return written;
}

std::uint64_t RocksStore::revision() const { return state_->revision; }
std::string RocksStore::unhealthy() const { return state_->watch->fatal(); }

}  // namespace slipway::registry

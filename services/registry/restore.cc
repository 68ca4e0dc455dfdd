#include "services/registry/restore.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <format>
#include <initializer_list>
#include <memory>
#include <span>

#include "lib/base/log.h"
#include "lib/base/sha256.h"
#include "schema/limits.h"
#include "services/registry/backup_folder.h"
#include "services/registry/durable_file.h"
#include "services/registry/rocks_store.h"
#include "services/registry/store_format.h"

namespace slipway::registry {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDatabase = "db";
constexpr const char* kFormat = "format";
constexpr const char* kComing = "db.restoring";  // is renamed to kDatabase: from then on the backup is restored
constexpr const char* kGoing = "db.replaced";    // until then what is replaced waits here
constexpr const char* kGoingFormat = "format.replaced";
constexpr const char* kLock = "restore.lock";
constexpr const char* kMark = "restored-from";  // in the database's folder, so that it comes and goes with it
constexpr std::size_t kMaxMarkBytes = 256;
constexpr std::size_t kMaxFormatBytes = 1 << 16;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string restored_from(const fs::path& data_dir) {
  const auto mark = read_at(data_dir / kDatabase / kMark, 0, kMaxMarkBytes, "mark");
  return mark ? std::string(reinterpret_cast<const char*>(mark->data()), mark->size()) : std::string();
}

Result<void> rename_in(const fs::path& data_dir, const char* from, const char* to) {
  if (::rename((data_dir / from).c_str(), (data_dir / to).c_str()) != 0)
    return io_error(std::format("cannot rename {} to {}", (data_dir / from).string(), to), errno);
  return sync_folder(data_dir, data_dir.string());
}

Result<void> delete_in(const fs::path& data_dir, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    std::error_code error;
    fs::remove_all(data_dir / name, error);
    if (error) return fail(Code::kInternal, std::format("{}: {}", (data_dir / name).string(), error.message()));
  }
  return {};
}

// While it lives no registry and no other restore opens the folder. RocksDB has the same lock on the database's own.
class FolderLock {
 public:
  // Errors: kUnavailable (one of them has it open).
  [[nodiscard]] static Result<std::unique_ptr<FolderLock>> take(const fs::path& data_dir) {
    std::unique_ptr<FolderLock> lock(new FolderLock(data_dir));
    for (const File* file : {&lock->own_, &lock->database_}) {
      struct flock whole{};
      whole.l_type = F_WRLCK;
      whole.l_whence = SEEK_SET;
      if (!file->is_open() || ::fcntl(file->fd(), F_SETLK, &whole) == 0) {
        lock->held_ = true;
        continue;
      }
      return fail(Code::kUnavailable,
                  std::format("a {} has {} open: {}", file == &lock->own_ ? "restore" : "registry", data_dir.string(),
                              file == &lock->own_ ? "wait for its end" : "stop it before its data is replaced"));
    }
    return lock;
  }
  ~FolderLock() {
    if (held_) ::unlink(path_.c_str());  // else it is another one's
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  explicit FolderLock(const fs::path& data_dir)
      : path_(data_dir / kLock), own_(path_, O_RDWR | O_CREAT), database_(data_dir / kDatabase / "LOCK", O_RDWR) {}

  const fs::path path_;
  const File own_;
  const File database_;  // not open when there is no database
  bool held_ = false;    // its own
};

// What a restore that was cut short has left: the folder is again as it was before, or as the backup has it.
Result<void> settle_leftovers(const fs::path& data_dir) {
  if (is_there(data_dir / kComing)) {
    spdlog::warn("a restore was cut short folder={}", log_value(data_dir.string()));
    Result<void> put_back;
    if (!is_there(data_dir / kDatabase) && is_there(data_dir / kGoing))
      put_back = rename_in(data_dir, kGoing, kDatabase);
    if (put_back && is_there(data_dir / kGoingFormat)) put_back = rename_in(data_dir, kGoingFormat, kFormat);
    if (!put_back) return put_back;
  }
  return delete_in(data_dir, {kComing, kGoing, kGoingFormat});
}

Result<std::string> choose(const BackupFolder& backups, const std::string& id) {
  if (!id.empty()) return id;
  const auto all = backups.list();
  if (!all) return std::unexpected(all.error());
  for (auto backup = all->rbegin(); backup != all->rend(); ++backup) {
    if (backup->state == msg::BackupState::kSucceeded) return backup->id;
  }
  return fail(Code::kNotFound, "there is no backup in that folder");
}

Result<void> copy_chunks(const BackupFolder& backups, const std::vector<Digest>& digests, const fs::path& data_dir) {
  const auto to = ChunkStore::open(data_dir / "chunks", 0);
  if (!to) return std::unexpected(to.error());
  for (const Digest& digest : digests) {
    const auto bytes = ChunkStore::get(backups.chunks_path(), digest);
    if (!bytes && bytes.error().code == Code::kNotFound) return fail(Code::kDataLoss, bytes.error().message);
    if (!bytes) return std::unexpected(bytes.error());
    if (auto put = (*to)->put(digest, *bytes); !put) return put;
  }
  return {};
}

// The database as the backup has it, in a folder beside the one that is used.
Result<void> copy_database(const BackupFolder& backups, const BackupManifest& manifest, const fs::path& data_dir) {
  const fs::path coming = data_dir / kComing;
  const std::string& id = manifest.backup.id;
  if (auto made = make_folder(coming); !made) return made;
  const std::string prefix = std::format("{}/", kDatabase);
  for (const auto& file : manifest.files) {
    if (!file.name.starts_with(prefix)) continue;
    const fs::path to = coming / file.name.substr(prefix.size());
    if (auto made = make_folder(to.parent_path()); !made) return made;
    const auto digest = copy_synced(backups.path_of(id) / file.name, to, to.string());
    if (!digest) return std::unexpected(digest.error());
    if (*digest != file.digest) return fail(Code::kDataLoss, std::format("backup {}: {} is damaged", id, file.name));
  }
  auto store = RocksStore::open(coming, {});
  if (!store) return std::unexpected(std::move(store).error());
  const std::uint64_t revision = (*store)->revision();
  if (revision < manifest.backup.revision) {
    return fail(Code::kDataLoss, std::format("backup {}: its database ends at revision {}, before {}", id, revision,
                                             manifest.backup.revision));
  }
  // Beyond what anybody has seen, also of restores before this one.
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  const std::uint64_t by_time =
      static_cast<std::uint64_t>(std::max<std::int64_t>(seconds, 0)) * 10 * kRestoredRevisions;
  if (auto moved = (*store)->advance_revision(std::max(revision + kRestoredRevisions, by_time)); !moved) return moved;
  store->reset();
  if (auto written = write_synced(coming / kMark, std::as_bytes(std::span(id)), (coming / kMark).string()); !written)
    return written;
  return sync_folder(coming, coming.string());
}

// The file that says of which format the backup's database is.
Result<std::vector<std::byte>> read_format(const BackupFolder& backups, const BackupManifest& manifest) {
  const std::string& id = manifest.backup.id;
  auto format = read_at(backups.path_of(id) / kFormat, 0, kMaxFormatBytes, "format file of the backup");
  if (!format && format.error().code != Code::kNotFound) return format;
  const auto listed = std::ranges::find(manifest.files, kFormat, &BackupManifest::File::name);
  if (format && listed != manifest.files.end() && sha256(*format) == listed->digest) return format;
  return fail(Code::kDataLoss, std::format("backup {}: {} is damaged", id, kFormat));
}

// Until the last rename the folder can be put back as it was, by settle_leftovers().
Result<void> change_over(const fs::path& data_dir, std::span<const std::byte> format) {
  Result<void> done;
  if (is_there(data_dir / kFormat)) done = rename_in(data_dir, kFormat, kGoingFormat);
  if (done && is_there(data_dir / kDatabase)) done = rename_in(data_dir, kDatabase, kGoing);
  if (done) done = replace_synced(data_dir / kFormat, format, (data_dir / kFormat).string());
  if (done) done = rename_in(data_dir, kComing, kDatabase);
  return done;
}

}  // namespace

Result<Restored> restore(const fs::path& data_dir, const RestoreOptions& options) {
  // Before anything of the backup is looked at: it may be gone by now.
  const std::string last = restored_from(data_dir);
  if (!options.id.empty() && last == options.id) return Restored{.id = last, .was_there = true};
  const BackupFolder backups(options.from);
  if (!is_there(options.from))
    return fail(Code::kNotFound, std::format("there is no folder {}", options.from.string()));
  const auto id = choose(backups, options.id);
  if (!id) return std::unexpected(id.error());
  if (last == *id) return Restored{.id = *id, .was_there = true};
  const auto manifest = backups.manifest(*id);
  if (!manifest) return std::unexpected(manifest.error());
  if (const auto known = check_format(backups.path_of(*id)); !known) return std::unexpected(known.error());
  const auto format = read_format(backups, *manifest);
  if (!format) return std::unexpected(format.error());
  const auto digests = backups.chunks(*id);
  if (!digests) return std::unexpected(digests.error());

  // A database that an earlier restore has put aside is one that was to be replaced.
  const bool has_data = is_there(data_dir / kDatabase / "CURRENT") || is_there(data_dir / kGoing);
  if (has_data && !options.replace) {
    return fail(Code::kConflict,
                std::format("{} holds data already, and nothing has been changed: to have it deleted and backup {} in "
                            "its place, say so (--replace --backup {})",
                            data_dir.string(), *id, *id));
  }
  if (auto made = make_folder(data_dir); !made) return std::unexpected(std::move(made).error());
  const auto lock = FolderLock::take(data_dir);
  if (!lock) return std::unexpected(lock.error());
  auto done = settle_leftovers(data_dir);
  if (done) done = copy_database(backups, *manifest, data_dir);
  if (done) done = copy_chunks(backups, *digests, data_dir);
  if (done) done = change_over(data_dir, *format);
  if (!done) {
    if (const auto settled = settle_leftovers(data_dir); !settled)
      spdlog::error("what a restore has left stays message={}", log_value(settled.error().message));
    return std::unexpected(std::move(done).error());
  }
  if (const auto settled = settle_leftovers(data_dir); !settled)
    spdlog::warn("the replaced database stays message={}", log_value(settled.error().message));
  return Restored{.id = *id, .chunks = digests->size()};
}

Result<void> clear_up_restore(const fs::path& data_dir) {
  const auto left = {kComing, kGoing, kGoingFormat, kLock};
  if (std::ranges::none_of(left, [&](const char* name) { return is_there(data_dir / name); })) return {};
  const auto lock = FolderLock::take(data_dir);
  if (!lock) return std::unexpected(lock.error());
  if (!is_there(data_dir / kDatabase) && !is_there(data_dir / kGoing))
    return fail(Code::kConflict, std::format("a restore into {} was cut short: run it again", data_dir.string()));
  return settle_leftovers(data_dir);
}

}  // namespace slipway::registry

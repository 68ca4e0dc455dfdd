// The registry's database: records by family and key, one synced and numbered commit at a time. The only file of
// Slipway behind which RocksDB is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/codec.h"
#include "schema/messages.h"
#include "services/registry/unreadable.h"

namespace rocksdb {
class Env;
}

namespace slipway::registry {

enum class Family : std::uint8_t {
  kMeta,         // counters and marks, as text
  kDatasets,     // "name/version"
  kJobs,         // job number; without the document
  kDocuments,    // job number: the document as submitted
  kJobEvents,    // "job number/event id"
  kCheckpoints,  // job number: the newest
  kLeases,       // job number: the last one granted
  kVersions,     // "model/version"
  kModels,       // name
  kAliasMoves,   // "model/number"
};
inline constexpr std::size_t kFamilies = 10;

// What one commit changes, and whom it concerns.
class Batch {
 public:
  void put(Family family, std::string key, std::string value) {
    steps_.push_back({family, std::move(key), std::move(value)});
  }
  // One that could never be sent to anybody fails the commit, with kTooLarge.
  template <class Record>
  void put_record(Family family, std::string key, const Record& record) {
    if (auto small = fits(record); !small && fits_) fits_ = std::move(small);
    put(family, std::move(key), encode_record(record));
  }
  void erase(Family family, std::string key) { steps_.push_back({family, std::move(key), std::nullopt}); }

  // To be told to everyone once the batch is on the disk; the store fills in the revision.
  void tell(msg::Changed change) { changes_.push_back(std::move(change)); }

  // Nobody need know: the commit takes no revision of its own, so that nobody sees a gap.
  void stay_quiet() { quiet_ = true; }
  [[nodiscard]] bool empty() const { return steps_.empty(); }

 private:
  friend class RocksStore;
  struct Step {
    Family family;
    std::string key;
    std::optional<std::string> value;  // nullopt: erase
  };
  std::vector<Step> steps_;
  std::vector<msg::Changed> changes_;
  bool quiet_ = false;
  Result<void> fits_;  // the first record that does not
};

// A record that cannot be read stops nothing but what asks for it alone: it is set aside (unreadable.h).
// Threads: reads from any thread; commit from the writer only. Life: closes the database at destruction.
class RocksStore {
 public:
  struct Options {
    std::uint64_t min_free_bytes = 0;  // below a quarter of it nothing is committed
    rocksdb::Env* env = nullptr;       // tests give one that fails; it must outlive the store
  };
  using OnCommit = std::function<void(const std::vector<msg::Changed>&, std::chrono::duration<double> took)>;
  using Visit = std::function<Result<bool>(std::string_view key, std::string_view value)>;

  // Errors: kUnavailable (another process has it open, or the disk does not let it), kDataLoss (damaged).
  [[nodiscard]] static Result<std::unique_ptr<RocksStore>> open(const std::filesystem::path& folder, Options options);
  ~RocksStore();

  // Called on the writer after every commit.
  void on_commit(OnCommit handler);

  // Errors: kDataLoss (damaged), kInternal (I/O).
  [[nodiscard]] Result<std::optional<std::string>> get(Family family, std::string_view key) const;

  // Errors: as get; kDataLoss (this release cannot read it: the message names it, and it is set aside).
  template <class Record>
  [[nodiscard]] Result<std::optional<Record>> get_record(Family family, std::string_view key) const {
    auto value = get(family, key);
    if (!value) return std::unexpected(std::move(value).error());
    if (!*value) return std::nullopt;
    auto record = read<Record>(family, key, **value);
    if (!record) return std::unexpected(std::move(record).error());
    return std::move(*record);
  }

  // The record that `value` is. Errors: kDataLoss (as get_record).
  template <class Record>
  [[nodiscard]] Result<Record> read(Family family, std::string_view key, std::string_view value) const {
    auto record = decode_record<Record>(std::as_bytes(std::span(value)));
    if (!record) return std::unexpected(set_aside(family, key, value.size(), record.error().message));
    if (auto later = later_release(*record); !later.empty()) {
      (void)set_aside(family, key, value.size(), later + " is of a later release");
    }
    return record;
  }

  // Remembers a record that is not what it should be; returns what to say to who asked for it.
  Error set_aside(Family family, std::string_view key, std::size_t size_bytes, const std::string& reason) const;
  [[nodiscard]] const UnreadableRecords& unreadable() const;

  // Visits the keys from `from` up to, and without, `end` (empty: to the last one), in order or from the last one
  // back, until `visit` returns false. All of it is of one moment. Errors: as get, and the visitor's own.
  [[nodiscard]] Result<void> scan(Family family, std::string_view from, std::string_view end, const Visit& visit) const;
  [[nodiscard]] Result<void> scan_back(Family family, std::string_view from, std::string_view end,
                                       const Visit& visit) const;

  // The same over the records that can be read; the others are set aside and passed over.
  // `visit`: Result<bool>(std::string_view key, Record record).
  template <class Record, class VisitRecord>
  [[nodiscard]] Result<void> scan_records(Family family, std::string_view from, std::string_view end,
                                          const VisitRecord& visit) const {
    return scan(family, from, end, passing_over<Record>(family, visit));
  }
  template <class Record, class VisitRecord>
  [[nodiscard]] Result<void> scan_records_back(Family family, std::string_view from, std::string_view end,
                                               const VisitRecord& visit) const {
    return scan_back(family, from, end, passing_over<Record>(family, visit));
  }

  // Visits everything in families that a later release has made.
  [[nodiscard]] Result<void> scan_later_families(const Visit& visit) const;

  // Writes all of it or nothing, and returns once it is on the disk. An error may leave open whether it was written
  // when the registry starts again. Errors: kUnavailable (disk full; reads go on, later commits work once there is
  // room), kTooLarge (a record), kInternal (I/O).
  [[nodiscard]] Result<void> commit(Batch batch);

  // Writes the files of a database with all that has been committed into a new folder whose parent is there. Any
  // thread. Errors: as commit.
  [[nodiscard]] Result<void> write_checkpoint(const std::filesystem::path& folder) const;

  // Passes over revisions up to `revision`, which is above the last one, so that whoever follows them sees a gap. The
  // writer. Errors: as commit.
  [[nodiscard]] Result<void> advance_revision(std::uint64_t revision);

  // Of the last commit that took one.
  [[nodiscard]] std::uint64_t revision() const;

  // Why nothing can be written any more until a restart or a repair; empty: all is well. Any thread.
  [[nodiscard]] std::string unhealthy() const;

 private:
  template <class Record, class VisitRecord>
  [[nodiscard]] Visit passing_over(Family family, const VisitRecord& visit) const {
    return [this, family, &visit](std::string_view key, std::string_view value) -> Result<bool> {
      auto record = read<Record>(family, key, value);
      if (!record) return true;
      return visit(key, std::move(*record));
    };
  }

  struct State;
  explicit RocksStore(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::registry

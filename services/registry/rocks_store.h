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
  template <class Record>
  void put_record(Family family, std::string key, const Record& record) {
    put(family, std::move(key), encode_record(record));
  }
  void erase(Family family, std::string key) { steps_.push_back({family, std::move(key), std::nullopt}); }

  // To be told to everyone once the batch is on the disk; the store fills in the revision.
  void tell(msg::Changed change) { changes_.push_back(std::move(change)); }

 private:
  friend class RocksStore;
  struct Step {
    Family family;
    std::string key;
    std::optional<std::string> value;  // nullopt: erase
  };
  std::vector<Step> steps_;
  std::vector<msg::Changed> changes_;
};

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

  // Errors: as get; kDataLoss (not such a record).
  template <class Record>
  [[nodiscard]] Result<std::optional<Record>> get_record(Family family, std::string_view key) const {
    auto value = get(family, key);
    if (!value) return std::unexpected(std::move(value).error());
    if (!*value) return std::nullopt;
    auto record = decode_record<Record>(std::as_bytes(std::span(**value)));
    if (!record) return std::unexpected(std::move(record).error());
    return std::move(*record);
  }

  // Visits the keys from `from` up to, and without, `end` (empty: to the last one), in order or from the last one
  // back, until `visit` returns false. All of it is of one moment. Errors: as get, and the visitor's own.
  [[nodiscard]] Result<void> scan(Family family, std::string_view from, std::string_view end, const Visit& visit) const;
  [[nodiscard]] Result<void> scan_back(Family family, std::string_view from, std::string_view end,
                                       const Visit& visit) const;

  // Writes all of it or nothing, and returns once it is on the disk. An error may leave open whether it was written
  // when the registry starts again. Errors: kUnavailable (disk full; reads go on, later commits work once there is
  // room), kInternal (I/O).
  [[nodiscard]] Result<void> commit(Batch batch);

  // Of the last commit.
  [[nodiscard]] std::uint64_t revision() const;

  // Why nothing can be written any more until a restart or a repair; empty: all is well. Any thread.
  [[nodiscard]] std::string unhealthy() const;

 private:
  struct State;
  explicit RocksStore(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::registry

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <map>
#include <stdexcept>
#include <thread>

#include "lib/wire/bus.h"
#include "schema/limits.h"
#include "services/registry/backup_maker.h"
#include "services/registry/durable_file.h"
#include "services/registry/restore.h"
#include "services/registry/server.h"
#include "services/registry/store_format.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

namespace fs = std::filesystem;

constexpr std::int64_t kNow = 1'769'860'800'000;  // 2026-01-31T12:00:00Z

// Everything that is kept, by family and key, but for the revision number.
std::map<std::string, std::string> records(const RocksStore& store) {
  std::map<std::string, std::string> all;
  for (std::size_t family = 0; family < kFamilies; ++family) {
    const auto read =
        store.scan(static_cast<Family>(family), "", "", [&](std::string_view key, std::string_view value) {
          if (key != "revision") all.emplace(std::format("{} {}", family, key), value);
          return Result<bool>(true);
        });
    EXPECT_TRUE(read);
  }
  return all;
}

void overwrite(const fs::path& path, std::string_view text) { std::ofstream(path) << text; }

class BackupTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    ASSERT_TRUE(settle_format(folder_.path(), std::nullopt, {}));
    auto chunks = ChunkStore::open(folder_.path() / "chunks", 0);
    ASSERT_TRUE(chunks);
    chunks_ = std::move(*chunks);
    start();
  }
  void TearDown() override { maker_.reset(); }

  void start() {
    maker_ = std::make_unique<BackupMaker>(
        BackupMaker::Options{.folder = backups_.path(), .data_dir = folder_.path(), .min_free_bytes = 0}, *store_,
        *chunks_, deleting_, [this](const msg::Backup& ended) {
          const std::lock_guard lock(ended_mutex_);
          ended_.push_back(ended);
          ended_changed_.notify_all();
        });
  }

  void put(const std::string& content) { ASSERT_TRUE(chunks_->put(sha256(content), bytes_of(content))); }

  // A data set and its bytes.
  void store_dataset(const std::string& name, const std::string& content) {
    put(content);
    put_dataset(name, content);
  }

  // What became of a backup that is begun now.
  msg::Backup make(std::uint32_t keep = 0, std::int64_t now_ms = kNow) {
    const auto begun = maker_->begin(keep, "ann", now_ms);
    EXPECT_TRUE(begun) << begun.error().message;
    return wait_for(begun->id);
  }
  msg::Backup wait_for(const std::string& id) {
    std::unique_lock lock(ended_mutex_);
    const auto found = [&] { return std::ranges::find(ended_, id, &msg::Backup::id); };
    EXPECT_TRUE(ended_changed_.wait_for(lock, 60s, [&] { return found() != ended_.end(); }));
    return *found();
  }

  std::vector<std::string> ids() {
    std::vector<std::string> ids;
    const auto all = maker_->list({});
    EXPECT_TRUE(all);
    for (const auto& backup : *all) ids.push_back(backup.id);
    return ids;
  }

  Result<Restored> restore_to(const fs::path& data_dir, const std::string& id = {}, bool replace = false) {
    return restore(data_dir, {.from = backups_.path(), .id = id, .replace = replace});
  }

  // What a restored data folder holds.
  static std::map<std::string, std::string> records_in(const fs::path& data_dir) {
    auto store = RocksStore::open(data_dir / "db", {});
    EXPECT_TRUE(store) << store.error().message;
    return records(**store);
  }
  static std::string chunk_in(const fs::path& data_dir, const std::string& content) {
    const std::string hex = to_hex(sha256(content));
    std::ifstream in(data_dir / "chunks" / hex.substr(0, 2) / hex.substr(2));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static fs::path chunk_path(const fs::path& folder, const std::string& content) {
    const std::string hex = to_hex(sha256(content));
    return folder / "chunks" / hex.substr(0, 2) / hex.substr(2);
  }

  Folder backups_;
  Folder target_;
  std::unique_ptr<ChunkStore> chunks_;
  std::shared_mutex deleting_;
  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  std::vector<msg::Backup> ended_;
  std::unique_ptr<BackupMaker> maker_;
};

TEST_F(BackupTest, GivesEveryRecordAndByteBack) {
  store_dataset("one", "first");
  store_dataset("two", "second");
  damage(Family::kVersions, "m/00000000000000000001");  // what cannot be read is kept, too
  const auto before = records(*store_);

  const auto backup = make();
  EXPECT_EQ(backup.id, "20260131T120000Z");
  EXPECT_EQ(backup.state, msg::BackupState::kSucceeded) << backup.reason;
  EXPECT_EQ(backup.chunks, 2U);
  EXPECT_EQ(backup.actor, "ann");
  EXPECT_EQ(backup.revision, store_->revision());
  EXPECT_EQ(backup.copied_bytes, backup.size_bytes);
  store_dataset("later", "third");

  const auto restored = restore_to(target_.path());
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(restored->id, backup.id);
  EXPECT_FALSE(restored->was_there);
  EXPECT_EQ(records_in(target_.path()), before);
  EXPECT_EQ(chunk_in(target_.path(), "first"), "first");
  EXPECT_EQ(chunk_in(target_.path(), "second"), "second");
  EXPECT_FALSE(fs::exists(chunk_path(target_.path(), "third")));
  EXPECT_TRUE(check_format(target_.path()));
}

TEST_F(BackupTest, ARestoredRegistrysRevisionsAreFarBehindThoseThatAnybodyKnows) {
  store_dataset("one", "first");
  ASSERT_EQ(make().state, msg::BackupState::kSucceeded);
  ASSERT_TRUE(restore_to(target_.path()));
  auto store = RocksStore::open(target_.path() / "db", {});
  ASSERT_TRUE(store);
  const std::uint64_t revision = (*store)->revision();
  EXPECT_GE(revision, store_->revision() + kRestoredRevisions);
  store->reset();
  // Nor is a later restore of another one mistaken for the first.
  const auto second = make(0, kNow + 1000);
  ASSERT_TRUE(restore_to(target_.path(), second.id, true));
  store = RocksStore::open(target_.path() / "db", {});
  ASSERT_TRUE(store);
  EXPECT_GE((*store)->revision(), revision);
}

TEST_F(BackupTest, CopiesOnlyWhatNoEarlierOneHas) {
  const std::string large(1 << 20, 'x');
  store_dataset("one", large);
  const auto first = make();
  EXPECT_GE(first.copied_bytes, large.size());
  store_dataset("two", "second");
  const auto second = make();
  EXPECT_EQ(second.id, "20260131T120000Z-2");
  EXPECT_GE(second.size_bytes, large.size());
  EXPECT_LT(second.copied_bytes, large.size());
  EXPECT_EQ(second.chunks, 2U);
}

TEST_F(BackupTest, KeepsAsManyAsAreToBeKeptAndTheirBytes) {
  store_dataset("one", "first");
  const auto oldest = make(0, kNow);
  Batch gone;
  gone.erase(Family::kDatasets, numbered_key("one", 1));
  ASSERT_TRUE(store_->commit(std::move(gone)));
  ASSERT_TRUE(chunks_->remove(sha256("first"), fs::file_time_type::max()));  // as the sweep does then
  store_dataset("two", "second");
  const auto middle = make(0, kNow + 1000);
  const auto newest = make(2, kNow + 2000);
  EXPECT_THAT(ids(), ElementsAre(middle.id, newest.id));
  EXPECT_FALSE(fs::exists(chunk_path(backups_.path(), "first")));
  EXPECT_TRUE(fs::exists(chunk_path(backups_.path(), "second")));
  EXPECT_FALSE(fs::exists(backups_.path() / oldest.id));

  ASSERT_TRUE(maker_->remove(middle.id));
  EXPECT_THAT(ids(), ElementsAre(newest.id));
  EXPECT_TRUE(fs::exists(chunk_path(backups_.path(), "second")));
  const auto again = maker_->remove(middle.id);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kNotFound);
  EXPECT_THAT(again.error().message, HasSubstr(newest.id));
}

TEST_F(BackupTest, OneAtATime) {
  store_dataset("one", "first");
  std::shared_lock held(deleting_);  // a backup waits for it
  const auto begun = maker_->begin(0, "ann", kNow);
  ASSERT_TRUE(begun);
  const auto second = maker_->begin(0, "bob", kNow);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kConflict);
  EXPECT_THAT(second.error().message, HasSubstr(begun->id));
  const auto removed = maker_->remove(begun->id);
  ASSERT_FALSE(removed);
  EXPECT_EQ(removed.error().code, Code::kConflict);
  const auto shown = maker_->list(begun->id);
  ASSERT_TRUE(shown);
  ASSERT_THAT(*shown, SizeIs(1));
  EXPECT_EQ(shown->front().state, msg::BackupState::kRunning);
  held.unlock();
  EXPECT_EQ(wait_for(begun->id).state, msg::BackupState::kSucceeded);
}

TEST_F(BackupTest, AFaultOfWhoeverHearsOfTheEndLeavesRoomForTheNext) {
  std::atomic<int> heard = 0;
  maker_ = std::make_unique<BackupMaker>(
      BackupMaker::Options{.folder = backups_.path(), .data_dir = folder_.path(), .min_free_bytes = 0}, *store_,
      *chunks_, deleting_, [&](const msg::Backup&) {
        ++heard;
        throw std::runtime_error("no room for it");
      });
  ASSERT_TRUE(maker_->begin(0, "ann", kNow));
  const auto until = std::chrono::steady_clock::now() + 60s;
  while (!maker_->begin(0, "ann", kNow) && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(1ms);
  maker_->stop();
  EXPECT_EQ(heard, 2);
}

TEST_F(BackupTest, ADamagedChunkIsSaidAndLeftOut) {
  store_dataset("one", "first");
  store_dataset("two", "second");
  overwrite(chunk_path(folder_.path(), "first"), "fir5t");
  const auto backup = make();
  EXPECT_EQ(backup.state, msg::BackupState::kSucceeded) << backup.reason;
  EXPECT_EQ(backup.damaged_chunks, 1U);
  EXPECT_EQ(backup.chunks, 1U);
  ASSERT_TRUE(restore_to(target_.path()));
  EXPECT_EQ(chunk_in(target_.path(), "second"), "second");
}

TEST_F(BackupTest, WhatAnEarlierOneHasIsKeptWhenTheRegistrysOwnIsDamagedLater) {
  store_dataset("one", "first");
  ASSERT_EQ(make().damaged_chunks, 0U);
  overwrite(chunk_path(folder_.path(), "first"), "fir5t");
  EXPECT_EQ(make().damaged_chunks, 0U);
  ASSERT_TRUE(restore_to(target_.path()));
  EXPECT_EQ(chunk_in(target_.path(), "first"), "first");
}

TEST_F(BackupTest, AFolderThatCannotBeUsedFailsTheBackupAndNothingElse) {
  store_dataset("one", "first");
  overwrite(backups_.path() / "chunks", "not a folder");
  const auto backup = make();
  EXPECT_EQ(backup.state, msg::BackupState::kFailed);
  EXPECT_THAT(backup.reason, HasSubstr("chunks"));
  EXPECT_GT(backup.ended_ms, 0);
  const auto all = maker_->list({});
  ASSERT_TRUE(all);
  ASSERT_THAT(*all, SizeIs(1));
  EXPECT_EQ(all->front().reason, backup.reason);
  fs::remove(backups_.path() / "chunks");
  EXPECT_EQ(make().state, msg::BackupState::kSucceeded);
}

TEST_F(BackupTest, StoppingGivesUpWhatIsBeingMade) {
  store_dataset("one", "first");
  std::shared_lock held(deleting_);
  const auto begun = maker_->begin(0, "ann", kNow);
  ASSERT_TRUE(begun);
  std::jthread stopper([this] { maker_->stop(); });
  while (true) {
    const auto more = maker_->begin(0, "ann", kNow);
    ASSERT_FALSE(more);
    if (more.error().code == Code::kUnavailable) break;  // it has been told to stop
    EXPECT_EQ(more.error().code, Code::kConflict);
  }
  held.unlock();
  stopper.join();
  const auto ended = wait_for(begun->id);
  // Told between two of its steps, or while it took the last one.
  EXPECT_EQ(BackupFolder(backups_.path()).manifest(begun->id).has_value(), ended.state == msg::BackupState::kSucceeded);
  EXPECT_EQ(fs::exists(backups_.path() / begun->id), ended.state == msg::BackupState::kSucceeded);
}

TEST_F(BackupTest, AChunkThatTheRegistryHasLostComesFromAnEarlierOne) {
  store_dataset("one", "first");
  store_dataset("two", "second");
  make(0, kNow);
  overwrite(chunk_path(folder_.path(), "first"), "");
  fs::remove(chunk_path(folder_.path(), "second"));
  const auto second = make(1, kNow + 1000);
  EXPECT_EQ(second.damaged_chunks, 0U);
  EXPECT_EQ(second.chunks, 2U);
  ASSERT_TRUE(restore_to(target_.path()));
  EXPECT_EQ(chunk_in(target_.path(), "first"), "first");
  EXPECT_EQ(chunk_in(target_.path(), "second"), "second");
}

TEST_F(BackupTest, AChunkThatIsNowhereIsCounted) {
  store_dataset("one", "first");
  fs::remove(chunk_path(folder_.path(), "first"));
  const auto backup = make();
  EXPECT_EQ(backup.state, msg::BackupState::kSucceeded) << backup.reason;
  EXPECT_EQ(backup.damaged_chunks, 1U);
}

TEST_F(BackupTest, TheNewestThatLacksNothingIsKeptWhateverComesAfterIt) {
  store_dataset("one", "first");
  const auto whole = make(0, kNow);
  put_dataset("two", "nowhere");  // whose bytes are not there
  make(2, kNow + 1000);
  const auto middle = make(2, kNow + 2000);
  const auto last = make(2, kNow + 3000);
  EXPECT_THAT(ids(), ElementsAre(whole.id, middle.id, last.id));
  // And the one just made, whatever the clock says.
  const auto behind = make(1, kNow - 1000);
  EXPECT_THAT(ids(), ElementsAre(behind.id, whole.id));
}

TEST_F(BackupTest, FoldersOfOthersAreLeftAlone) {
  store_dataset("one", "first");
  for (const char* name : {"2025", "2025-01-31", "20250131", "20250131T120000Z-old", "x"})
    fs::create_directories(backups_.path() / name);
  fs::create_directories(backups_.path() / "20250131T120000Z-7");  // ours, cut short
  make();
  for (const char* name : {"2025", "2025-01-31", "20250131", "20250131T120000Z-old", "x"})
    EXPECT_TRUE(fs::exists(backups_.path() / name)) << name;
  EXPECT_FALSE(fs::exists(backups_.path() / "20250131T120000Z-7"));
}

TEST_F(BackupTest, WhatWasCutShortIsNoBackupAndMakesRoom) {
  store_dataset("one", "first");
  fs::create_directories(backups_.path() / "20250101T000000Z" / "db");
  overwrite(backups_.path() / "20250101T000000Z" / "db" / "CURRENT", "MANIFEST-000001");
  EXPECT_TRUE(ids().empty());
  const auto none = restore_to(target_.path(), "20250101T000000Z");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kNotFound);
  make();
  EXPECT_FALSE(fs::exists(backups_.path() / "20250101T000000Z"));
}

TEST_F(BackupTest, AManifestThatIsDamagedIsShownAsFailed) {
  store_dataset("one", "first");
  const auto backup = make();
  overwrite(backups_.path() / backup.id / "backup.json", "{");
  const auto all = maker_->list({});
  ASSERT_TRUE(all);
  ASSERT_THAT(*all, SizeIs(1));
  EXPECT_EQ(all->front().state, msg::BackupState::kFailed);
  EXPECT_THAT(all->front().reason, HasSubstr("manifest"));
  const auto restored = restore_to(target_.path(), backup.id);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kDataLoss);
}

TEST_F(BackupTest, NamesOutsideOfTheFolderAreNone) {
  store_dataset("one", "first");
  const auto backup = make();
  const BackupFolder& folder = maker_->folder();
  for (const char* id : {"", ".", "..", "../x", "/", "chunks", "2026/..", "9../.."}) {
    const auto read = folder.manifest(id);
    ASSERT_FALSE(read) << id;
    EXPECT_EQ(read.error().code, Code::kNotFound) << id;
    EXPECT_FALSE(maker_->remove(id)) << id;
  }
  for (const std::string& file : {std::string(), std::string("/etc/passwd"), backup.id + "/../x",
                                  std::string("chunks/../x"), std::string("chunks/ab"), backup.id + "/db/../../x"}) {
    const auto read = folder.read(backup.id, file, 0);
    ASSERT_FALSE(read) << file;
    EXPECT_EQ(read.error().code, Code::kNotFound) << file;
  }
}

TEST_F(BackupTest, ItsFilesInPagesAreABackupFolderAgain) {
  for (int i = 0; i < 7; ++i) store_dataset(std::format("d{}", i), std::format("content {}", i));
  const auto before = records(*store_);
  const auto backup = make();
  const Folder copy;
  std::uint64_t seen = 0;
  std::string last;
  while (true) {
    const auto page = maker_->folder().files(backup.id, seen, 3);
    ASSERT_TRUE(page) << page.error().message;
    if (page->empty()) break;
    for (const auto& file : *page) {
      std::string bytes;
      while (bytes.size() < file.size_bytes) {
        const auto piece = maker_->folder().read(backup.id, file.name, bytes.size());
        ASSERT_TRUE(piece) << piece.error().message;
        ASSERT_FALSE(piece->empty());
        bytes.append(reinterpret_cast<const char*>(piece->data()), piece->size());
      }
      ASSERT_EQ(bytes.size(), file.size_bytes) << file.name;
      fs::create_directories((copy.path() / file.name).parent_path());
      overwrite(copy.path() / file.name, bytes);
      last = file.name;
    }
    seen += page->size();
  }
  EXPECT_EQ(last, backup.id + "/backup.json");
  const auto restored = restore(target_.path(), {.from = copy.path(), .id = {}, .replace = false});
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(records_in(target_.path()), before);
  EXPECT_EQ(chunk_in(target_.path(), "content 6"), "content 6");
}

TEST_F(BackupTest, DataIsReplacedOnlyWhenThatIsSaid) {
  store_dataset("one", "first");
  const auto before = records(*store_);
  make(0, kNow);
  ASSERT_TRUE(restore_to(target_.path()));
  store_dataset("two", "second");
  const auto after = records(*store_);
  const auto second = make(0, kNow + 1000);

  const auto refused = restore_to(target_.path(), second.id);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kConflict);
  EXPECT_THAT(refused.error().message, HasSubstr("--replace"));
  EXPECT_EQ(records_in(target_.path()), before);

  ASSERT_TRUE(restore_to(target_.path(), second.id, true));
  EXPECT_EQ(records_in(target_.path()), after);
  EXPECT_EQ(chunk_in(target_.path(), "second"), "second");
  // Nothing is left of how it was done.
  std::vector<std::string> there;
  for (const auto& entry : fs::directory_iterator(target_.path())) there.push_back(entry.path().filename());
  EXPECT_THAT(there, testing::UnorderedElementsAre("db", "chunks", "format"));
}

TEST_F(BackupTest, TheSameOneIsNotRestoredTwice) {
  store_dataset("one", "first");
  const auto backup = make();
  ASSERT_TRUE(restore_to(target_.path(), backup.id));
  {
    auto store = RocksStore::open(target_.path() / "db", {});
    ASSERT_TRUE(store);
    Batch batch;
    batch.put(Family::kMeta, "since", "1");
    ASSERT_TRUE((*store)->commit(std::move(batch)));
  }
  for (const bool replace : {false, true}) {
    const auto again = restore_to(target_.path(), backup.id, replace);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_TRUE(again->was_there);
    EXPECT_EQ(records_in(target_.path()).count("0 since"), 1U);
  }
  // Nor when there is no such backup any more.
  ASSERT_TRUE(maker_->remove(backup.id));
  const auto gone = restore_to(target_.path(), backup.id);
  ASSERT_TRUE(gone) << gone.error().message;
  EXPECT_TRUE(gone->was_there);
}

TEST_F(BackupTest, ADamagedOneChangesNothing) {
  store_dataset("one", "first");
  const auto good = make(0, kNow);
  const auto before = records(*store_);
  ASSERT_TRUE(restore_to(target_.path(), good.id));
  store_dataset("two", "second");
  const auto bad = make(0, kNow + 1000);

  const fs::path chunk = chunk_path(backups_.path(), "second");
  overwrite(chunk, "sec0nd");
  auto restored = restore_to(target_.path(), bad.id, true);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kDataLoss);
  EXPECT_EQ(records_in(target_.path()), before);
  fs::remove(chunk);
  restored = restore_to(target_.path(), bad.id, true);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kDataLoss);
  overwrite(chunk, "second");

  overwrite(backups_.path() / bad.id / "db" / "CURRENT", "MANIFEST-999999\n");
  restored = restore_to(target_.path(), bad.id, true);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kDataLoss);
  EXPECT_THAT(restored.error().message, HasSubstr("db/CURRENT"));
  EXPECT_EQ(records_in(target_.path()), before);
  EXPECT_FALSE(fs::exists(target_.path() / "db.restoring"));

  overwrite(backups_.path() / bad.id / "chunks", std::string(64, 'x'));
  restored = restore_to(target_.path(), bad.id, true);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kDataLoss);
}

TEST_F(BackupTest, ALaterReleasesOneIsNotRestored) {
  store_dataset("one", "first");
  const auto backup = make();
  overwrite(backups_.path() / backup.id / "format", "format = 99\nrelease = \"9.0\"\n");
  const auto restored = restore_to(target_.path(), backup.id);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kUnsupported);
  EXPECT_THAT(restored.error().message, HasSubstr("9.0"));
}

TEST_F(BackupTest, WithoutAnyTheErrorSaysSo) {
  for (const fs::path& from : {backups_.path(), backups_.path() / "none"}) {
    const auto restored = restore(target_.path(), {.from = from, .id = {}, .replace = false});
    ASSERT_FALSE(restored);
    EXPECT_EQ(restored.error().code, Code::kNotFound);
  }
}

TEST_F(BackupTest, ARestoreThatWasCutShortIsUndoneWherever) {
  store_dataset("one", "first");
  const auto before = records(*store_);
  make(0, kNow);
  ASSERT_TRUE(restore_to(target_.path()));
  store_dataset("two", "second");
  make(0, kNow + 1000);
  const auto& at = target_.path();
  overwrite(at / "format", "format = 1\nrelease = \"before\"\n");
  // As a process leaves it that dies before each of the changes of names, and behind the last one.
  const std::vector<std::function<void()>> steps = {
      [&] { fs::create_directories(at / "db.restoring"); },
      [&] { fs::rename(at / "format", at / "format.replaced"); },
      [&] { fs::rename(at / "db", at / "db.replaced"); },
      [&] { overwrite(at / "format", "format = 1\nrelease = \"coming\"\n"); },
  };
  for (std::size_t died = 1; died <= steps.size(); ++died) {
    for (std::size_t i = 0; i < died; ++i) steps[i]();
    ASSERT_TRUE(clear_up_restore(at)) << died;
    EXPECT_EQ(records_in(at), before) << died;
    const auto format = check_format(at);
    ASSERT_TRUE(format && *format) << died;
    EXPECT_EQ((*format)->release, "before") << died;
    std::vector<std::string> there;
    for (const auto& entry : fs::directory_iterator(at)) there.push_back(entry.path().filename());
    EXPECT_THAT(there, testing::UnorderedElementsAre("db", "chunks", "format")) << died;
  }
  // Behind the last one it is done, and what was replaced goes.
  fs::create_directories(at / "db.replaced");
  overwrite(at / "format.replaced", "format = 1\nrelease = \"long ago\"\n");
  ASSERT_TRUE(clear_up_restore(at));
  EXPECT_EQ(records_in(at), before);
  EXPECT_EQ((*check_format(at))->release, "before");
  EXPECT_FALSE(fs::exists(at / "db.replaced"));
}

TEST_F(BackupTest, AFirstRestoreThatWasCutShortIsRunAgain) {
  store_dataset("one", "first");
  const auto before = records(*store_);
  const auto backup = make();
  fs::create_directories(target_.path() / "db.restoring");
  Bus bus;
  ServerOptions options;
  options.data_dir = target_.path();
  options.calls_address = options.events_address = "127.0.0.1:0";
  const auto server = Server::start(bus, options);
  ASSERT_FALSE(server);
  EXPECT_THAT(server.error().message, HasSubstr("run it again"));
  const auto restored = restore_to(target_.path(), backup.id);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ(records_in(target_.path()), before);
  EXPECT_TRUE(Server::start(bus, options));
}

TEST_F(BackupTest, TwoRestoresAtOnceAreKeptApartAndTheLockStays) {
  store_dataset("one", "first");
  make();
  const fs::path lock = target_.path() / "restore.lock";
  int held[2];
  int end[2];
  ASSERT_EQ(::pipe(held), 0);
  ASSERT_EQ(::pipe(end), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    ::close(end[1]);
    const int file = ::open(lock.c_str(), O_RDWR | O_CREAT, 0640);
    struct flock whole{};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    char byte = ::fcntl(file, F_SETLK, &whole) == 0 ? 'y' : 'n';
    (void)!::write(held[1], &byte, 1);
    (void)!::read(end[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 'n';
  EXPECT_EQ(::read(held[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  const auto refused = restore_to(target_.path());
  ::close(end[1]);
  ::waitpid(other, nullptr, 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_TRUE(fs::exists(lock));
  for (const int fd : {held[0], held[1], end[0]}) ::close(fd);
  EXPECT_TRUE(restore_to(target_.path()));
  EXPECT_FALSE(fs::exists(lock));
}

TEST_F(BackupTest, WhatAnotherRestoreHasLeftDoesNotMakeTheLastOneBeDoneAgain) {
  store_dataset("one", "first");
  const auto backup = make();
  ASSERT_TRUE(restore_to(target_.path(), backup.id));
  fs::create_directories(target_.path() / "db.restoring");
  const auto again = restore_to(target_.path(), backup.id, true);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(again->was_there);
}

}  // namespace
}  // namespace slipway::registry

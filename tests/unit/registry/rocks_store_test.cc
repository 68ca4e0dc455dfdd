#include "services/registry/rocks_store.h"

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <format>

#include "schema/limits.h"

#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;

// A disk that can be told to be full: writes and syncs then fail, reads go on.
class FullDisk : public rocksdb::FileSystemWrapper {
 public:
  FullDisk() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FullDisk"; }
  rocksdb::IOStatus NewWritableFile(const std::string& name, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    if (full) return rocksdb::IOStatus::NoSpace();
    auto status = FileSystemWrapper::NewWritableFile(name, options, file, debug);
    if (status.ok()) *file = std::make_unique<File>(std::move(*file), *this);
    return status;
  }
  rocksdb::IOStatus GetFreeSpace(const std::string& path, const rocksdb::IOOptions& options, std::uint64_t* bytes,
                                 rocksdb::IODebugContext* debug) override {
    if (full) {
      *bytes = 0;
      return rocksdb::IOStatus::OK();
    }
    return FileSystemWrapper::GetFreeSpace(path, options, bytes, debug);
  }
  std::atomic<bool> full{false};

 private:
  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file, FullDisk& disk)
        : FSWritableFileOwnerWrapper(std::move(file)), disk_(disk) {}
    using FSWritableFileOwnerWrapper::Append;
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* debug) override {
      if (disk_.full) return rocksdb::IOStatus::NoSpace();
      return FSWritableFileOwnerWrapper::Append(data, options, debug);
    }

   private:
    FullDisk& disk_;
  };
};

Batch put(const std::string& key, const std::string& value) {
  Batch batch;
  batch.put(Family::kMeta, key, value);
  return batch;
}

class RocksStoreTest : public testing::Test {
 protected:
  std::unique_ptr<RocksStore> open(RocksStore::Options options = {}) {
    auto store = RocksStore::open(folder_.path(), options);
    EXPECT_TRUE(store) << store.error().message;
    return store ? std::move(*store) : nullptr;
  }
  static std::vector<std::string> keys(const RocksStore& store, std::string_view from, std::string_view end,
                                       bool back) {
    std::vector<std::string> found;
    const auto visit = [&](std::string_view key, std::string_view) -> Result<bool> {
      found.emplace_back(key);
      return found.size() < 3;
    };
    EXPECT_TRUE(back ? store.scan_back(Family::kModels, from, end, visit)
                     : store.scan(Family::kModels, from, end, visit));
    return found;
  }
  Folder folder_;
};

TEST_F(RocksStoreTest, KeepsCommitsAndTheirRevisionAcrossAReopen) {
  {
    const auto store = open();
    EXPECT_EQ(store->revision(), 0U);
    Batch batch = put("a", "1");
    batch.put(Family::kJobs, "a", "other family");
    ASSERT_TRUE(store->commit(std::move(batch)));
    ASSERT_TRUE(store->commit(put("b", "2")));
    Batch erase;
    erase.erase(Family::kMeta, "b");
    ASSERT_TRUE(store->commit(std::move(erase)));
  }
  const auto store = open();
  EXPECT_EQ(store->revision(), 3U);
  EXPECT_EQ(store->get(Family::kMeta, "a").value(), "1");
  EXPECT_EQ(store->get(Family::kJobs, "a").value(), "other family");
  EXPECT_EQ(store->get(Family::kMeta, "b").value(), std::nullopt);
  EXPECT_EQ(store->unhealthy(), "");
}

TEST_F(RocksStoreTest, ScansRangesBothWaysAndStopsWhenTold) {
  const auto store = open();
  Batch batch;
  for (const char* key : {"a", "b", "c", "d", "e"}) batch.put(Family::kModels, key, "");
  ASSERT_TRUE(store->commit(std::move(batch)));
  EXPECT_THAT(keys(*store, "b", "d", false), ElementsAre("b", "c"));
  EXPECT_THAT(keys(*store, "b", "d", true), ElementsAre("c", "b"));
  EXPECT_THAT(keys(*store, "", "", false), ElementsAre("a", "b", "c"));
  EXPECT_THAT(keys(*store, "", "", true), ElementsAre("e", "d", "c"));
}

TEST_F(RocksStoreTest, RefusesASecondOwner) {
  const auto store = open();
  const auto second = RocksStore::open(folder_.path(), {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kUnavailable);
}

TEST_F(RocksStoreTest, SaysWhenARecordIsNotOne) {
  const auto store = open();
  ASSERT_TRUE(store->commit(put("a", "not a record")));
  const auto record = store->get_record<Job>(Family::kMeta, "a");
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, Code::kDataLoss);
  EXPECT_THAT(record.error().message, HasSubstr("record 'a' of the family meta"));
  EXPECT_FALSE(store->get_record<Job>(Family::kMeta, "a"));
  const auto listed = store->unreadable().list(0);
  ASSERT_EQ(listed.items.size(), 1U);
  EXPECT_EQ(listed.total, 1U);
  EXPECT_EQ(listed.items[0].key, "a");
  EXPECT_EQ(listed.items[0].size_bytes, 12U);
  // Written anew it is one again.
  ASSERT_TRUE(store->commit(put("a", encode_record(Job()))));
  EXPECT_EQ(store->unreadable().total(), 0U);
}

TEST_F(RocksStoreTest, RefusesARecordThatCouldNeverBeSent) {
  const auto store = open();
  Model model;
  model.aliases.resize(kMaxListItems + 1);
  Batch batch;
  batch.put_record(Family::kModels, "m", model);
  EXPECT_EQ(store->commit(std::move(batch)).error().code, Code::kTooLarge);
  EXPECT_EQ(store->get(Family::kModels, "m").value(), std::nullopt);
}

TEST_F(RocksStoreTest, TakesNoRevisionForWhatNobodyNeedKnow) {
  const auto store = open();
  ASSERT_TRUE(store->commit(put("a", "1")));
  Batch quiet;
  quiet.erase(Family::kMeta, "a");
  quiet.stay_quiet();
  ASSERT_TRUE(store->commit(std::move(quiet)));
  EXPECT_EQ(store->revision(), 1U);
  EXPECT_EQ(store->get(Family::kMeta, "a").value(), std::nullopt);
}

TEST_F(RocksStoreTest, LeavesTheFamiliesOfALaterReleaseAsTheyAre) {
  ASSERT_TRUE(open()->commit(put("a", "1")));
  const auto add_family = [&] {
    std::vector<std::string> names;
    ASSERT_TRUE(rocksdb::DB::ListColumnFamilies({}, folder_.path().string(), &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const auto& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, folder_.path().string(), families, &handles, &opened).ok());
    const std::unique_ptr<rocksdb::DB> db(opened);
    rocksdb::ColumnFamilyHandle* later = nullptr;
    ASSERT_TRUE(db->CreateColumnFamily({}, "later", &later).ok());
    handles.push_back(later);
    ASSERT_TRUE(db->Put({}, later, "key", "value").ok());
    for (auto* handle : handles) ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
  };
  add_family();
  const auto store = open();
  ASSERT_TRUE(store);
  EXPECT_EQ(store->get(Family::kMeta, "a").value(), "1");
  std::vector<std::string> found;
  ASSERT_TRUE(store->scan_later_families([&](auto key, auto value) -> Result<bool> {
    found.push_back(std::format("{}={}", key, value));
    return true;
  }));
  EXPECT_THAT(found, ElementsAre("key=value"));
}

TEST_F(RocksStoreTest, RefusesToWriteBelowItsGuardAndGoesOnReading) {
  ASSERT_TRUE(open()->commit(put("a", "1")));
  const auto store = open({.min_free_bytes = 1ULL << 62});
  const auto refused = store->commit(put("b", "2"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_GT(refused.error().retry_after, 0ms);
  EXPECT_EQ(store->get(Family::kMeta, "a").value(), "1");
}

TEST_F(RocksStoreTest, GetsOverAFullDiskByItself) {
  const auto disk = std::make_shared<FullDisk>();
  const auto env = rocksdb::NewCompositeEnv(disk);
  {
    const auto store = open({.env = env.get()});
    ASSERT_TRUE(store->commit(put("a", "1")));
    disk->full = true;
    const auto refused = store->commit(put("b", "2"));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kUnavailable);
    EXPECT_THAT(refused.error().message, HasSubstr("disk is full"));
    EXPECT_EQ(store->commit(put("b", "2")).error().code, Code::kUnavailable);
    EXPECT_EQ(store->get(Family::kMeta, "a").value(), "1");
    EXPECT_EQ(store->unhealthy(), "");
    disk->full = false;
    // RocksDB may be in the middle of a try of its own.
    const auto deadline = std::chrono::steady_clock::now() + 30s;
    Result<void> done = store->commit(put("c", "3"));
    while (!done && std::chrono::steady_clock::now() < deadline) done = store->commit(put("c", "3"));
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(store->revision(), 2U);
  }
  const auto store = open();
  EXPECT_EQ(store->get(Family::kMeta, "a").value(), "1");
  EXPECT_EQ(store->get(Family::kMeta, "c").value(), "3");
}

}  // namespace
}  // namespace slipway::registry

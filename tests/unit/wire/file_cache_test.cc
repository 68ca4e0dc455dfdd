#include "lib/wire/file_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <optional>
#include <thread>

#include "tests/unit/wire/fake_store.h"

namespace slipway {
namespace {

using FileCacheTest = TransferTest;
constexpr auto kAll = std::numeric_limits<std::uint64_t>::max();

TEST_F(FileCacheTest, KeepsADownloadAndFetchesADamagedOneAgain) {
  const StoredFile file = store.keep("f", pattern(10'000), 4096);
  const auto first = download_to_cache(registry, file, folder / "cache");
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(store.read_count(), 3);
  ASSERT_TRUE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_EQ(store.read_count(), 3) << "the kept file was fetched again";
  {
    std::fstream damage(*first, std::ios::in | std::ios::out | std::ios::binary);
    damage.seekp(5000);
    damage.put('!');
  }
  ASSERT_TRUE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_EQ(store.read_count(), 6);
}

TEST_F(FileCacheTest, ADiskThatTakesNothingIsNoReasonToWait) {
  std::ofstream(folder / "file") << "no folder";
  const auto done = download_to_cache(registry, store.keep("f", pattern(10), 4096), folder / "file" / "cache");
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::kInternal);
}

TEST_F(FileCacheTest, SweepsWhatKilledDownloadsLeft) {
  for (const char* name : {"old.part", "new.part", "whole"}) std::ofstream(folder / name) << "bytes";
  for (const char* name : {"old.part", "whole"}) {
    std::filesystem::last_write_time(folder / name,
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  }
  sweep_partial_downloads(folder);
  EXPECT_FALSE(std::filesystem::exists(folder / "old.part"));
  EXPECT_TRUE(std::filesystem::exists(folder / "new.part"));
  EXPECT_TRUE(std::filesystem::exists(folder / "whole"));
  sweep_partial_downloads(folder / "none");
}

TEST_F(FileCacheTest, LeavesNothingHalfDoneBehind) {
  StoredFile file = store.keep("f", pattern(10'000), 4096);
  {
    const std::lock_guard lock(store.mutex);
    store.chunks[file.chunks[2]][0] ^= 1;
  }
  ASSERT_FALSE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "cache"));
}

// Sets the time of last use, so that the order does not hang on the clock's grain.
void used_before(const CachedFile& file, std::chrono::minutes ago) {
  std::filesystem::last_write_time(file.path(), std::filesystem::file_time_type::clock::now() - ago);
}

TEST_F(FileCacheTest, EvictsWhatWasNotUsedForTheLongestTime) {
  const FileCache cache(folder, 30'000);
  std::vector<StoredFile> files;
  for (int i = 0; i < 4; ++i) files.push_back(store.keep("f", pattern(10'000 + static_cast<std::size_t>(i)), 4096));
  std::vector<std::filesystem::path> paths;
  for (int i = 0; i < 2; ++i) {
    const auto file = cache.get(registry, files[i]);
    ASSERT_TRUE(file) << file.error().message;
    paths.push_back(file->path());
    used_before(*file, std::chrono::minutes(10 - i));
  }
  ASSERT_TRUE(cache.get(registry, files[0]));  // now the younger one
  ASSERT_TRUE(cache.get(registry, files[2]));
  EXPECT_TRUE(std::filesystem::exists(paths[0]));
  EXPECT_FALSE(std::filesystem::exists(paths[1]));
  EXPECT_LE(cache.bytes(), 30'000U);
}

TEST_F(FileCacheTest, KeepsWhatIsInUseWhateverTheBudget) {
  const FileCache cache(folder, 5'000);
  auto first = cache.get(registry, store.keep("f", pattern(10'000), 4096));
  ASSERT_TRUE(first);
  const std::filesystem::path path = first->path();
  std::optional<CachedFile> copy = *first;
  ASSERT_TRUE(cache.get(registry, store.keep("g", pattern(10'001), 4096)));
  first = fail(Code::kNotFound, "let go of");
  cache.make_room();
  EXPECT_TRUE(std::filesystem::exists(path)) << "the copy still holds it";
  copy.reset();
  cache.make_room();
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(cache.bytes(), 0U);
}

// Another process that has the folder too: a lock of another open file stands for it.
TEST_F(FileCacheTest, KeepsWhatAnotherProcessUses) {
  const FileCache cache(folder, 0);
  std::filesystem::path path;
  int other = -1;
  {
    const auto file = cache.get(registry, store.keep("f", pattern(10'000), 4096));
    ASSERT_TRUE(file);
    path = file->path();
    other = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_EQ(::flock(other, LOCK_SH), 0);
  }
  cache.make_room();
  EXPECT_TRUE(std::filesystem::exists(path));
  ::close(other);
  cache.make_room();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(FileCacheTest, LeavesMarksAndOtherFilesAlone) {
  const FileCache cache(folder, 0);
  const std::string digest(64, 'a');
  for (const std::string& name : {digest + ".quarantined", digest + ".crashed", digest + ".trying", std::string("x")}) {
    std::ofstream(folder / name) << "mark";
  }
  cache.make_room();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 4);
}

TEST_F(FileCacheTest, GivesOneWholeFileToThreadsThatAskAtOnce) {
  const FileCache cache(folder, kAll);
  const StoredFile file = store.keep("f", pattern(50'000), 4096);
  std::atomic<int> whole{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        const auto kept = cache.get(registry, file);
        if (kept && std::filesystem::file_size(kept->path()) == 50'000) ++whole;
      });
    }
  }
  EXPECT_EQ(whole, 4);
  EXPECT_EQ(cache.bytes(), 50'000U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

}  // namespace
}  // namespace slipway

#include "services/registry/chunk_store.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <mutex>
#include <utility>

#include "tests/unit/registry/fixture.h"

namespace {

std::mutex synced_mutex;
std::vector<std::filesystem::path> synced;

std::vector<std::filesystem::path> take_synced() {
  const std::lock_guard lock(synced_mutex);
  return std::exchange(synced, {});
}

}  // namespace

// In place of the C library's, for this whole program: notes what is synced, and syncs it.
extern "C" int fsync(int fd) {
  std::error_code error;
  const auto path = std::filesystem::read_symlink(std::format("/proc/self/fd/{}", fd), error);
  if (!error) {
    const std::lock_guard lock(synced_mutex);
    synced.push_back(path);
  }
  return static_cast<int>(syscall(SYS_fsync, fd));
}

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using testing::HasSubstr;

class ChunkStoreTest : public testing::Test {
 protected:
  std::unique_ptr<ChunkStore> open(std::uint64_t min_free = 0) {
    auto store = ChunkStore::open(folder_.path() / "chunks", min_free);
    EXPECT_TRUE(store) << store.error().message;
    return std::move(*store);
  }
  [[nodiscard]] fs::path path_of(const Digest& digest) const {
    const auto hex = to_hex(digest);
    return folder_.path() / "chunks" / hex.substr(0, 2) / hex.substr(2);
  }
  [[nodiscard]] std::size_t temporaries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_.path() / "chunks" / "tmp"), {}));
  }
  Folder folder_;
  const std::vector<std::byte> bytes_ = bytes_of("some bytes");
  const Digest digest_ = sha256(bytes_);
};

TEST_F(ChunkStoreTest, GivesBackWhatWasPutAlsoAfterAReopen) {
  ASSERT_TRUE(open()->put(digest_, bytes_));
  const auto store = open();
  EXPECT_EQ(store->get(digest_).value(), bytes_);
  EXPECT_EQ(store->stored_bytes(), bytes_.size());
  EXPECT_EQ(store->get(sha256("other")).error().code, Code::kNotFound);
}

TEST_F(ChunkStoreTest, KeepsTheSameBytesOnce) {
  const auto store = open();
  ASSERT_TRUE(store->put(digest_, bytes_));
  ASSERT_TRUE(store->put(digest_, bytes_));
  EXPECT_EQ(store->stored_bytes(), bytes_.size());
  EXPECT_EQ(temporaries(), 0U);
}

TEST_F(ChunkStoreTest, SaysWhenStoredBytesAreDamagedAndMendsThemAtTheNextPut) {
  const auto store = open();
  ASSERT_TRUE(store->put(digest_, bytes_));
  for (const char* damaged : {"some bytez", "some", "some bytes and more"}) {
    std::ofstream(path_of(digest_), std::ios::binary | std::ios::trunc) << damaged;
    const auto read = store->get(digest_);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, Code::kDataLoss);
    ASSERT_TRUE(store->put(digest_, bytes_));
    EXPECT_EQ(store->get(digest_).value(), bytes_);
  }
}

TEST_F(ChunkStoreTest, ForgetsWhatWasHalfWritten) {
  open();
  std::ofstream(folder_.path() / "chunks" / "tmp" / "7") << "half";
  const auto store = open();
  EXPECT_EQ(temporaries(), 0U);
  EXPECT_EQ(store->stored_bytes(), 0U);
}

TEST_F(ChunkStoreTest, SweepsOnlyWhatIsUnreferencedAndOld) {
  const auto store = open();
  const auto other = bytes_of("other bytes");
  ASSERT_TRUE(store->put(digest_, bytes_));
  ASSERT_TRUE(store->put(sha256(other), other));
  const auto later = fs::file_time_type::clock::now() + 1h;
  EXPECT_EQ(store->sweep({}, fs::file_time_type::clock::now() - 1h), 0U);
  EXPECT_EQ(store->sweep({digest_}, later), 1U);
  EXPECT_TRUE(store->get(digest_));
  EXPECT_EQ(store->get(sha256(other)).error().code, Code::kNotFound);
  EXPECT_EQ(store->stored_bytes(), bytes_.size());
}

TEST_F(ChunkStoreTest, APutOfOldBytesMakesThemYoung) {
  const auto store = open();
  ASSERT_TRUE(store->put(digest_, bytes_));
  fs::last_write_time(path_of(digest_), fs::file_time_type::clock::now() - 10h);
  ASSERT_TRUE(store->put(digest_, bytes_));
  EXPECT_EQ(store->sweep({}, fs::file_time_type::clock::now() - 1h), 0U);
}

TEST_F(ChunkStoreTest, RefusesToFillTheDiskBeyondItsGuard) {
  const auto put = open(1ULL << 62)->put(digest_, bytes_);
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::kUnavailable);
  EXPECT_GT(put.error().retry_after, 0ms);
  EXPECT_THAT(put.error().message, HasSubstr("disk is full"));
}

TEST_F(ChunkStoreTest, AFullDiskLeavesNothingHalfWrittenAndIsGotOver) {
  const auto store = open();
  const std::vector<std::byte> large(100'000);
  // The kernel ends the write in the middle, as it does on a full disk.
  struct rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small{.rlim_cur = 50'000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto put = store->put(sha256(large), large);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);

  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::kUnavailable);
  EXPECT_EQ(temporaries(), 0U);
  EXPECT_EQ(store->get(sha256(large)).error().code, Code::kNotFound);
  EXPECT_EQ(store->stored_bytes(), 0U);
  EXPECT_TRUE(store->put(sha256(large), large));
}

TEST_F(ChunkStoreTest, WithoutADescriptorLeftOneIsToldToComeAgain) {
  const auto store = open();
  ASSERT_TRUE(store->put(digest_, bytes_));
  const auto other = bytes_of("other bytes");
  struct rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const struct rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto put = store->put(sha256(other), other);
  const auto get = store->get(digest_);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);

  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Code::kUnavailable);
  EXPECT_GT(put.error().retry_after, 0ms);
  ASSERT_FALSE(get);
  EXPECT_EQ(get.error().code, Code::kUnavailable);
  EXPECT_TRUE(store->put(sha256(other), other));
  EXPECT_TRUE(store->get(digest_));
}

// A folder whose own entry is not on the disk is gone after a power cut, with all that is in it.
TEST(MakeFolder, SyncsTheEntriesOfThoseThatItMakesAndOfOneThatIsThere) {
  const Folder folder;
  const fs::path here = fs::canonical(folder.path());
  (void)take_synced();
  ASSERT_TRUE(make_folder(here / "a" / "b"));
  EXPECT_THAT(take_synced(), testing::IsSupersetOf({here, here / "a"}));
  ASSERT_TRUE(make_folder(here / "a" / "b"));
  EXPECT_THAT(take_synced(), testing::ElementsAre(here / "a")) << "an earlier start may not have come to it";
}

}  // namespace
}  // namespace slipway::registry

#include "lib/wire/blob_transfer.h"

#include <gtest/gtest.h>

#include "tests/unit/wire/fake_store.h"

namespace slipway {
namespace {

using namespace std::chrono_literals;
using BlobTransfer = TransferTest;

TEST_F(BlobTransfer, UploadsInPartsAndClosesTheFile) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{5}, kUploadPartBytes, 3 * kUploadPartBytes + 1}) {
    {
      const std::lock_guard lock(store.mutex);
      store.uploaded.clear();
      store.closed = false;
    }
    const auto upload = open_upload(registry);
    ASSERT_TRUE(upload);
    const std::string bytes = pattern(size);
    ASSERT_TRUE(upload_file(registry, *upload, "f", std::as_bytes(std::span(bytes))));
    const std::lock_guard lock(store.mutex);
    EXPECT_TRUE(store.uploaded == bytes) << size;
    EXPECT_TRUE(store.closed);
  }
}

TEST_F(BlobTransfer, StopsAnUploadThatIsRefused) {
  store.refuse_parts = true;
  const std::string bytes = pattern(40 * kUploadPartBytes);
  const auto done = upload_file(registry, UploadId("u"), "f", std::as_bytes(std::span(bytes)));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "disk full");
}

TEST_F(BlobTransfer, DownloadsWhatWasStored) {
  const std::string bytes = pattern(100'000);
  const auto came = download(registry, store.keep("f", bytes, 4096));
  ASSERT_TRUE(came) << came.error().message;
  EXPECT_TRUE(std::string_view(reinterpret_cast<const char*>(came->data()), came->size()) == bytes);
}

TEST_F(BlobTransfer, NoticesADamagedChunkAndAWrongWhole) {
  StoredFile file = store.keep("f", pattern(10'000), 4096);
  {
    const std::lock_guard lock(store.mutex);
    store.chunks[file.chunks[1]][7] ^= 1;
  }
  EXPECT_EQ(download(registry, file).error().code, Code::kDataLoss);

  StoredFile shorter = store.keep("g", pattern(20'000), 4096);
  shorter.chunks.pop_back();
  EXPECT_EQ(download(registry, shorter).error().code, Code::kDataLoss);
}

// A registry that has no room now takes the rest later; nothing is lost, and nothing comes twice.
TEST_F(BlobTransfer, SendsWhatFoundNoRoomAgain) {
  const std::string bytes = pattern(20 * kUploadPartBytes + 7);
  store.refuse_next_parts = 11;
  const auto done = upload_file(registry, UploadId("u"), "f", std::as_bytes(std::span(bytes)), {.pause = 1ms});
  ASSERT_TRUE(done) << done.error().message;
  const std::lock_guard lock(store.mutex);
  EXPECT_TRUE(store.uploaded == bytes);
  EXPECT_TRUE(store.closed);
  EXPECT_EQ(store.refused, 11);
}

TEST_F(BlobTransfer, GivesAnUploadUpThatGetsNoRoomForLong) {
  const std::string bytes = pattern(3 * kUploadPartBytes);
  store.refuse_next_parts = 1'000'000;
  const auto done =
      upload_file(registry, UploadId("u"), "f", std::as_bytes(std::span(bytes)), {.pause = 1ms, .give_up = 50ms});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::kOverloaded);
  abort_upload(registry, UploadId("u"));
  std::unique_lock lock(store.mutex);
  EXPECT_TRUE(store.changed.wait_for(lock, 20s, [&] { return store.aborts == 1; }));
}

TEST_F(BlobTransfer, AsksForChunksInAWindowAndTakesThemInOrder) {
  const std::string bytes = pattern(100'000);
  const StoredFile file = store.keep("f", bytes, 4096);
  store.hold_reads = kDownloadWindow;  // nothing comes before so many are asked for
  const auto came = download(registry, file);
  ASSERT_TRUE(came) << came.error().message;
  EXPECT_TRUE(std::string_view(reinterpret_cast<const char*>(came->data()), came->size()) == bytes);
}

TEST_F(BlobTransfer, AsksAgainForAChunkThatFoundNoRoom) {
  const std::string bytes = pattern(100'000);
  const StoredFile file = store.keep("f", bytes, 4096);
  store.refuse_next_reads = 6;
  EXPECT_TRUE(download(registry, file, {.pause = 1ms}));
  {
    const std::lock_guard lock(store.mutex);
    store.refuse_next_reads = 1'000'000;
  }
  EXPECT_EQ(download(registry, file, {.pause = 1ms, .give_up = 50ms}).error().code, Code::kOverloaded);
}

// A program that ends must not be held up by our patience.
TEST_F(BlobTransfer, EndsAtOnceWhenItsCallerIsClosed) {
  const StoredFile file = store.keep("f", pattern(10), 4096);
  registry.close();
  EXPECT_EQ(download(registry, file, {.pause = 1h, .give_up = 2h}).error().code, Code::kUnavailable);
  EXPECT_EQ(upload_file(registry, UploadId("u"), "f", {}, {.pause = 1h, .give_up = 2h}).error().code,
            Code::kUnavailable);
}

}  // namespace
}  // namespace slipway

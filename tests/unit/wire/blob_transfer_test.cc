#include "lib/wire/blob_transfer.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <map>
#include <mutex>

#include "lib/base/sha256.h"

namespace slipway {
namespace {

// As much of a registry as transfers need, in memory.
class Store {
 public:
  Store() {
    auto bound = bus.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
    EXPECT_TRUE(bound);
    socket = *bound;
  }
  StoredFile keep(const std::string& name, const std::string& bytes, std::size_t chunk_size) {
    const std::lock_guard lock(mutex);
    StoredFile file{.name = name, .size_bytes = bytes.size(), .digest = sha256(bytes), .chunks = {}};
    for (std::size_t at = 0; at < bytes.size(); at += chunk_size) {
      const std::string chunk = bytes.substr(at, chunk_size);
      file.chunks.push_back(sha256(chunk));
      chunks[sha256(chunk)] = chunk;
    }
    return file;
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(bus.port(socket)); }

  std::mutex mutex;
  std::map<Digest, std::string> chunks;
  std::string uploaded;
  bool closed = false;
  bool refuse_parts = false;
  int reads = 0;
  Bus bus;
  SocketId socket{};

 private:
  void on_message(Incoming incoming) {
    const std::lock_guard lock(mutex);
    msg::Body answer = msg::Ok{};
    std::vector<Frame> payload;
    auto& body = incoming.message.envelope.body;
    if (std::holds_alternative<msg::OpenUpload>(body)) {
      answer = msg::UploadOpened{UploadId("u")};
    } else if (const auto* part = std::get_if<msg::UploadPart>(&body)) {
      if (refuse_parts) {
        answer = to_message({.code = Code::kUnavailable, .message = "disk full", .path = {}});
      } else if (part->offset_bytes == uploaded.size()) {
        uploaded += incoming.message.payload.at(0).text();
        closed = part->last;
      } else {
        answer = to_message({.code = Code::kInvalidArgument, .message = "a gap", .path = {}});
      }
    } else if (const auto* read = std::get_if<msg::GetChunk>(&body)) {
      ++reads;
      payload.push_back(Frame::copy(chunks.at(read->digest)));
    }
    bus.send(incoming.socket, incoming.peer,
             {.envelope = {.correlation = incoming.message.envelope.correlation,
                           .deadline_ms = 0,
                           .request_id = {},
                           .body = std::move(answer)},
              .payload = std::move(payload)});
  }
};

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 131 + i / 977);
  return text;
}

class BlobTransfer : public testing::Test {
 protected:
  BlobTransfer() : registry(bus, store.address()) {
    char name[] = "/tmp/slipway-blob-XXXXXX";
    folder = mkdtemp(name);
  }
  ~BlobTransfer() override { std::filesystem::remove_all(folder); }

  Store store;
  Bus bus;
  Caller registry;
  std::filesystem::path folder;
};

TEST_F(BlobTransfer, UploadsInPartsAndClosesTheFile) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{5}, kUploadPartBytes, 3 * kUploadPartBytes + 1}) {
    store.uploaded.clear();
    store.closed = false;
    const auto upload = open_upload(registry);
    ASSERT_TRUE(upload);
    const std::string bytes = pattern(size);
    ASSERT_TRUE(upload_file(registry, *upload, "f", std::as_bytes(std::span(bytes))));
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
  store.chunks[file.chunks[1]][7] ^= 1;
  EXPECT_EQ(download(registry, file).error().code, Code::kDataLoss);

  StoredFile shorter = store.keep("g", pattern(20'000), 4096);
  shorter.chunks.pop_back();
  EXPECT_EQ(download(registry, shorter).error().code, Code::kDataLoss);
}

TEST_F(BlobTransfer, KeepsADownloadAndFetchesADamagedOneAgain) {
  const StoredFile file = store.keep("f", pattern(10'000), 4096);
  const auto first = download_to_cache(registry, file, folder / "cache");
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(store.reads, 3);
  ASSERT_TRUE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_EQ(store.reads, 3) << "the kept file was fetched again";
  {
    std::fstream damage(*first, std::ios::in | std::ios::out | std::ios::binary);
    damage.seekp(5000);
    damage.put('!');
  }
  ASSERT_TRUE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_EQ(store.reads, 6);
}

TEST_F(BlobTransfer, ADiskThatTakesNothingIsNoReasonToWait) {
  std::ofstream(folder / "file") << "no folder";
  const auto done = download_to_cache(registry, store.keep("f", pattern(10), 4096), folder / "file" / "cache");
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, Code::kInternal);
}

TEST_F(BlobTransfer, SweepsWhatKilledDownloadsLeft) {
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

TEST_F(BlobTransfer, LeavesNothingHalfDoneBehind) {
  StoredFile file = store.keep("f", pattern(10'000), 4096);
  store.chunks[file.chunks[2]][0] ^= 1;
  ASSERT_FALSE(download_to_cache(registry, file, folder / "cache"));
  EXPECT_TRUE(std::filesystem::is_empty(folder / "cache"));
}

}  // namespace
}  // namespace slipway

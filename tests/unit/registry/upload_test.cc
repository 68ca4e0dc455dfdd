#include "services/registry/upload.h"

#include <zlib.h>

#include <map>

#include "services/registry/chunk_store.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using testing::HasSubstr;

std::vector<std::byte> gzip(std::string_view content) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::vector<std::byte> out(deflateBound(&stream, content.size()) + 32);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class UploadTest : public testing::Test {
 protected:
  Result<void> add(const std::string& file, std::uint64_t offset, std::span<const std::byte> bytes, bool last,
                   bool decompress = false) {
    return upload_.add({.upload = {}, .file = file, .offset_bytes = offset, .last = last, .decompress = decompress},
                       bytes);
  }
  Result<void> add(const std::string& file, std::uint64_t offset, std::string_view text, bool last,
                   bool decompress = false) {
    return add(file, offset, std::as_bytes(std::span(text)), last, decompress);
  }

  Result<void> answer_;  // of the chunk store
  std::map<Digest, std::size_t> chunks_;
  Upload upload_{10'000'000, [this](const Digest& digest, std::span<const std::byte> bytes) -> Result<void> {
                   if (answer_) chunks_[digest] = bytes.size();
                   return answer_;
                 }};
};

TEST_F(UploadTest, PutsPartsTogether) {
  ASSERT_TRUE(add("a", 0, "one ", false));
  ASSERT_TRUE(add("a", 4, "two", true));
  ASSERT_TRUE(add("empty", 0, "", true));
  const auto files = upload_.files();
  ASSERT_TRUE(files) << files.error().message;
  EXPECT_EQ(files->at(0), stored_file("a", "one two"));
  EXPECT_EQ(files->at(1).size_bytes, 0U);
  EXPECT_EQ(files->at(1).digest, sha256(""));
  EXPECT_TRUE(files->at(1).chunks.empty());
}

TEST_F(UploadTest, CutsChunksOfFourMegabytes) {
  const std::vector<std::byte> part(kMaxPartBytes, std::byte{7});
  for (std::uint64_t i = 0; i < 9; ++i) ASSERT_TRUE(add("a", i * part.size(), part, i == 8));
  const auto file = upload_.files().value().at(0);
  ASSERT_EQ(file.chunks.size(), 3U);
  EXPECT_EQ(file.chunks[0], file.chunks[1]);
  EXPECT_EQ(chunks_.at(file.chunks[0]), kChunkBytes);
  EXPECT_EQ(chunks_.at(file.chunks[2]), kMaxPartBytes);
  EXPECT_EQ(file.digest, sha256(std::vector<std::byte>(9 * kMaxPartBytes, std::byte{7})));
}

TEST_F(UploadTest, UnpacksGzipWhateverThePieces) {
  const auto packed = gzip("the content");
  for (std::size_t i = 0; i < packed.size(); ++i) {
    ASSERT_TRUE(add("a.csv.gz", i, std::span(packed).subspan(i, 1), i + 1 == packed.size(), true));
  }
  ASSERT_TRUE(add("plain.gz", 0, "x", true, true));
  ASSERT_TRUE(add("kept.gz", 0, packed, true));
  const auto files = upload_.files().value();
  EXPECT_EQ(files.at(0), stored_file("a.csv", "the content"));
  EXPECT_EQ(files.at(1), stored_file("plain", "x"));
  EXPECT_EQ(files.at(2).name, "kept.gz");
  EXPECT_EQ(files.at(2).size_bytes, packed.size());
}

TEST_F(UploadTest, RefusesDamagedGzipAndStaysSpent) {
  const auto packed = gzip("the content");
  const auto cut = add("a.gz", 0, std::span(packed).first(packed.size() - 2), true, true);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, Code::kInvalidArgument);
  EXPECT_THAT(cut.error().message, HasSubstr("a.gz: gzip: cut off"));
  EXPECT_EQ(add("b", 0, "x", true).error().message, cut.error().message);
  EXPECT_EQ(upload_.files().error().message, cut.error().message);
}

TEST_F(UploadTest, RefusesGapsAndTakesRepeats) {
  ASSERT_TRUE(add("a", 0, "1234", false));
  EXPECT_THAT(add("a", 5, "x", false).error().message, HasSubstr("at byte 5, wanted the one at 4"));
  EXPECT_TRUE(add("a", 0, "1234", false));
  EXPECT_FALSE(add("a", 2, "3456", false));
  ASSERT_TRUE(add("a", 4, "5", true));
  EXPECT_TRUE(add("a", 4, "5", true));
  EXPECT_THAT(add("a", 5, "6", true).error().message, HasSubstr("has ended after 5 bytes"));
  EXPECT_EQ(upload_.files().value().at(0), stored_file("a", "12345"));
}

TEST_F(UploadTest, AsksForTheRefusedPartFirstAndTakesItThen) {
  ASSERT_TRUE(add("a", 0, "one ", false));
  upload_.note_refused();  // the part at 4 found no place
  EXPECT_EQ(add("a", 8, "three", true).error().code, Code::kOverloaded);
  EXPECT_EQ(add("b", 0, "other", true).error().code, Code::kOverloaded);
  ASSERT_TRUE(add("a", 4, "two ", false));
  ASSERT_TRUE(add("a", 8, "three", true));
  ASSERT_TRUE(add("b", 0, "other", true));
  EXPECT_EQ(upload_.files()->at(0).digest, sha256("one two three"));
}

TEST_F(UploadTest, TakesOneFileAfterTheOther) {
  ASSERT_TRUE(add("a", 0, "1", false));
  EXPECT_THAT(add("b", 0, "1", true).error().message, HasSubstr("a part of 'b' came while 'a' is open"));
  EXPECT_THAT(upload_.files().error().message, HasSubstr("'a' has not ended"));
}

TEST_F(UploadTest, RefusesBadNamesLargePartsAndNoFiles) {
  EXPECT_THAT(upload_.files().error().message, HasSubstr("no files"));
  EXPECT_EQ(add("", 0, "x", true).error().code, Code::kInvalidArgument);
  EXPECT_EQ(add("a\nb\x01", 0, "x", true).error().code, Code::kInvalidArgument);
  EXPECT_EQ(add("a", 0, std::vector<std::byte>(kMaxPartBytes + 1), true).error().code, Code::kTooLarge);
  ASSERT_TRUE(add("a.gz", 0, "x", true, true));
  EXPECT_THAT(add("a", 0, "x", true).error().message, HasSubstr("came twice"));
}

TEST_F(UploadTest, CountsWhatComesOutOfGzipAgainstTheLimit) {
  const auto packed = gzip(std::string(10'000'001, 'x'));
  const auto refused = add("bomb.gz", 0, packed, true, true);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
}

TEST_F(UploadTest, PassesOnThatTheDiskIsFull) {
  answer_ = fail(Code::kUnavailable, "disk full");
  EXPECT_EQ(add("a", 0, "x", true).error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::registry

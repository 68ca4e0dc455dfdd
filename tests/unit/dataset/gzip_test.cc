#include "lib/dataset/gzip.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::HasSubstr;

// Everything that comes out of `input`, pushed `step` bytes at a time.
Result<std::string> gunzip(std::span<const std::byte> input, std::size_t step, std::uint64_t limit = 1 << 30) {
  Gunzip filter(limit);
  std::string out;
  const auto sink = [&](std::span<const std::byte> bytes) -> Result<void> {
    out += text_of(bytes);
    return {};
  };
  for (std::size_t at = 0; at < input.size(); at += step) {
    auto taken = filter.push(input.subspan(at, std::min(step, input.size() - at)), sink);
    if (!taken) return std::unexpected(taken.error());
  }
  if (auto whole = filter.finish(); !whole) return std::unexpected(whole.error());
  return out;
}

TEST(Gunzip, GivesTheSameInPiecesOfAnySize) {
  std::string text;
  for (int i = 0; i < 50'000; ++i) text += std::to_string(i * 7919);
  const Bytes packed = gzip(bytes_of(text));
  for (const std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{4096}, packed.size()}) {
    const auto out = gunzip(packed, step);
    ASSERT_TRUE(out) << out.error().message;
    EXPECT_EQ(*out, text);
  }
}

TEST(Gunzip, HandsOnALongRunOfOneByteFromFewCompressedOnes) {
  const Bytes zeros(3'000'000);
  const auto out = gunzip(gzip(zeros), 1'000'000);
  ASSERT_TRUE(out);
  EXPECT_EQ(out->size(), zeros.size());
}

TEST(Gunzip, ReadsSeveralMembersAsOneFile) {
  Bytes packed = gzip(bytes_of("first "));
  for (const std::byte b : gzip(bytes_of("second"))) packed.push_back(b);
  EXPECT_EQ(gunzip(packed, 3).value(), "first second");
  EXPECT_EQ(gunzip(packed, packed.size()).value(), "first second");
}

TEST(Gunzip, ReadsAnEmptyMember) { EXPECT_EQ(gunzip(gzip({}), 5).value(), ""); }

TEST(Gunzip, RefusesAnInputCutOffAnywhere) {
  const Bytes packed = gzip(bytes_of("some text that is long enough to be cut"));
  for (std::size_t size = 0; size < packed.size(); ++size) {
    const auto out = gunzip(std::span(packed).first(size), 16);
    ASSERT_FALSE(out) << size;
    EXPECT_EQ(out.error().code, Code::kInvalidArgument);
    EXPECT_THAT(out.error().message, HasSubstr("cut off"));
  }
}

TEST(Gunzip, RefusesAWrongChecksumAndAWrongLength) {
  const Bytes good = gzip(bytes_of("checked"));
  for (const std::size_t from_end : {5U, 1U}) {
    Bytes bad = good;
    bad[bad.size() - from_end] ^= std::byte{1};
    const auto out = gunzip(bad, 1);
    ASSERT_FALSE(out);
    EXPECT_EQ(out.error().code, Code::kInvalidArgument);
    EXPECT_THAT(out.error().message, HasSubstr("damaged"));
  }
}

TEST(Gunzip, RefusesDamagedData) {
  Bytes bad = gzip(bytes_of(std::string(1000, 'x') + std::string(1000, 'y')));
  bad[12] ^= std::byte{0xff};
  EXPECT_EQ(gunzip(bad, bad.size()).error().code, Code::kInvalidArgument);
}

TEST(Gunzip, RefusesOtherBytesAfterTheEnd) {
  Bytes packed = gzip(bytes_of("text"));
  for (const char c : std::string("garbage")) packed.push_back(static_cast<std::byte>(c));
  for (const std::size_t step : {std::size_t{1}, packed.size()}) {
    const auto out = gunzip(packed, step);
    ASSERT_FALSE(out);
    EXPECT_EQ(out.error().code, Code::kInvalidArgument);
    EXPECT_THAT(out.error().message, HasSubstr("follow the end"));
  }
}

TEST(Gunzip, StopsWhenMoreComesOutThanAllowed) {
  const Bytes packed = gzip(Bytes(100'000));
  EXPECT_TRUE(gunzip(packed, packed.size(), 100'000));
  const auto out = gunzip(packed, packed.size(), 99'999);
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().code, Code::kTooLarge);
}

TEST(Gunzip, PassesOnTheSinksError) {
  Gunzip filter;
  const auto taken =
      filter.push(gzip(bytes_of("x")), [](auto) -> Result<void> { return fail(Code::kUnavailable, "full"); });
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, Code::kUnavailable);
}

class ReadMaybeGzipFile : public testing::Test {
 protected:
  std::filesystem::path write(std::span<const std::byte> content) {
    std::ofstream(path_, std::ios::binary) << text_of(content);
    return path_;
  }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("slipway-gzip-test-" + std::to_string(getpid()));
};

TEST_F(ReadMaybeGzipFile, GivesTheContentOfBothKinds) {
  EXPECT_EQ(text_of(read_maybe_gzip_file(write(bytes_of("plain"))).value()), "plain");
  EXPECT_EQ(text_of(read_maybe_gzip_file(write(gzip(bytes_of("packed")))).value()), "packed");
  EXPECT_EQ(text_of(read_maybe_gzip_file(write({})).value()), "");
}

TEST_F(ReadMaybeGzipFile, NamesTheFileInErrors) {
  const auto missing = read_maybe_gzip_file("/no/such/file");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("/no/such/file"));

  const Bytes packed = gzip(bytes_of("packed"));
  const auto cut = read_maybe_gzip_file(write(std::span(packed).first(12)));
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, Code::kInvalidArgument);
  EXPECT_THAT(cut.error().message, HasSubstr(path_.string()));

  EXPECT_EQ(read_maybe_gzip_file(write(bytes_of("12345")), 4).error().code, Code::kTooLarge);
  EXPECT_EQ(read_maybe_gzip_file("/tmp").error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::dataset

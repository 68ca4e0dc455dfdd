#include "services/gateway/tar_header.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

TEST(TarHeader, IsABlockOfUstar) {
  const auto header = tar_header("chunks/ab/cdef", 1234, 1'769'860'800);
  ASSERT_TRUE(header);
  ASSERT_EQ(header->size(), kTarBlockBytes);
  EXPECT_EQ(header->substr(0, 15), std::string("chunks/ab/cdef\0", 15));
  EXPECT_EQ(header->substr(124, 12), std::string("00000002322\0", 12));
  EXPECT_EQ(header->substr(136, 12), std::string("15137367300\0", 12));
  EXPECT_EQ((*header)[156], '0');
  EXPECT_EQ(header->substr(257, 8), std::string("ustar\00000", 8));
  // The sum of all bytes, those of the sum itself taken as blanks.
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < header->size(); ++i)
    sum += i >= 148 && i < 156 ? ' ' : static_cast<unsigned char>((*header)[i]);
  EXPECT_EQ(std::stoull(header->substr(148, 6), nullptr, 8), sum);
  EXPECT_EQ(header->substr(154, 2), std::string("\0 ", 2));
}

TEST(TarHeader, FilesFillWholeBlocks) {
  EXPECT_EQ(tar_padding(0).size(), 0U);
  EXPECT_EQ(tar_padding(1).size(), 511U);
  EXPECT_EQ(tar_padding(512).size(), 0U);
  EXPECT_EQ(tar_padding(513).size(), 511U);
  EXPECT_EQ(tar_end(), std::string(1024, '\0'));
}

TEST(TarHeader, RefusesWhatThereIsNoRoomFor) {
  EXPECT_TRUE(tar_header(std::string(100, 'x'), (std::uint64_t{1} << 33) - 1, 0));
  EXPECT_FALSE(tar_header(std::string(101, 'x'), 1, 0));
  EXPECT_FALSE(tar_header("x", std::uint64_t{1} << 33, 0));
}

}  // namespace
}  // namespace slipway::gateway

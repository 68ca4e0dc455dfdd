#include "lib/dataset/idx.h"

#include <gmock/gmock.h>

#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::HasSubstr;

void expect_idx_refused(std::span<const std::byte> file, std::string_view part) {
  const auto parsed = parse_idx(file);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
  EXPECT_THAT(parsed.error().message, HasSubstr(part));
}

TEST(Idx, ReadsShapeAndPayload) {
  const Bytes file = idx(0x08, {2, 1, 2}, {1, 2, 3, 4});
  const auto parsed = parse_idx(file);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->header.type, IdxType::kU8);
  EXPECT_EQ(parsed->header.shape, (std::vector<std::int64_t>{2, 1, 2}));
  EXPECT_EQ(parsed->header.header_bytes, 16U);
  EXPECT_EQ(text_of(parsed->payload), "\x01\x02\x03\x04");
}

TEST(Idx, KnowsEveryElementType) {
  const std::pair<int, std::uint64_t> kTypes[] = {{0x08, 1}, {0x09, 1}, {0x0B, 2}, {0x0C, 4}, {0x0D, 4}, {0x0E, 8}};
  for (const auto& [type, bytes] : kTypes) {
    const auto header = parse_idx_header(idx(type, {3}, {}));
    ASSERT_TRUE(header) << type;
    EXPECT_EQ(header->payload_bytes, 3 * bytes);
  }
  expect_idx_refused(idx(0x0A, {1}, {0}), "element type 0x0a");
}

TEST(Idx, RefusesWhatIsNotIdx) {
  expect_idx_refused({}, "0 bytes came");
  expect_idx_refused(bytes_of("\x89PNG...."), "not an IDX file");
  expect_idx_refused(idx(0x08, {}, {}), "0 dimensions");
  expect_idx_refused(idx(0x08, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {0}), "9 dimensions");
}

TEST(Idx, RefusesAHeaderCutOff) {
  const Bytes file = idx(0x08, {2, 2}, {1, 2, 3, 4});
  expect_idx_refused(std::span(file).first(3), "3 bytes came");
  expect_idx_refused(std::span(file).first(11), "11 bytes came, it has 12");
}

TEST(Idx, RefusesAPayloadOfAnotherSize) {
  expect_idx_refused(idx(0x08, {2, 28, 28}, {1, 2, 3}), "announces 2x28x28 = 1568 bytes, 3 came");
  expect_idx_refused(idx(0x08, {2}, {1, 2, 3}), "announces 2 = 2 bytes, 3 came");
  expect_idx_refused(idx(0x0C, {2}, {1, 2, 3}), "announces 2 of 4 bytes each = 8 bytes, 3 came");
}

TEST(Idx, RefusesSizesThatOverflow) {
  constexpr std::uint32_t kMax = 0xFFFFFFFF;
  expect_idx_refused(idx(0x08, {kMax, kMax}, {}), "which no file can hold");
  expect_idx_refused(idx(0x0E, {kMax, kMax, kMax}, {}), "which no file can hold");
  EXPECT_EQ(parse_idx_header(idx(0x08, {kMax, 0, kMax, kMax}, {}))->payload_bytes, 0U);
}

}  // namespace
}  // namespace slipway::dataset

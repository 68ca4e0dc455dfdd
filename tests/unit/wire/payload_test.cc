#include "lib/wire/payload.h"

#include <gtest/gtest.h>

#include <limits>

namespace slipway {
namespace {

constexpr PayloadLimits kLimits{.max_frame_bytes = 4, .max_frames = 3, .max_message_bytes = 20};

std::vector<Frame> frames(const std::vector<std::string>& texts) {
  std::vector<Frame> made;
  for (const auto& text : texts) made.push_back(Frame::copy(text));
  return made;
}

std::vector<std::string> texts(std::span<const Frame> frames) {
  std::vector<std::string> made;
  for (const Frame& frame : frames) made.emplace_back(frame.text());
  return made;
}

TEST(Payload, ComesTogetherAgainAsItWasCut) {
  const std::vector<std::vector<std::string>> cases{
      {},
      {""},
      {"", "", ""},
      {"1234"},
      {"12345"},
      {"12345678"},
      {"", "123456789", ""},
      {"1", "123456", "1234"},
      {std::string(20, 'x')},
  };
  for (const auto& whole : cases) {
    auto pieces = frames(whole);
    const auto sizes = cut_payload(pieces, kLimits.max_frame_bytes);
    EXPECT_LE(pieces.size(), max_pieces(kLimits));
    for (const Frame& piece : pieces) EXPECT_LE(piece.size(), kLimits.max_frame_bytes);
    const auto joined = join_payload(std::move(pieces), sizes, kLimits);
    ASSERT_TRUE(joined) << joined.error().message;
    EXPECT_EQ(texts(*joined), whole);
  }
}

TEST(Payload, IsNotCopiedByBeingCut) {
  const Frame whole = Frame::copy(std::string("123456"));
  std::vector<Frame> pieces{whole};
  EXPECT_EQ(cut_payload(pieces, 4), (std::vector<std::uint64_t>{6}));
  EXPECT_EQ(pieces.at(1).data(), whole.data() + 4);
  EXPECT_EQ(pieces.at(1).owner(), whole.owner());
}

TEST(Payload, WithoutSizesIsWhole) {
  const auto joined = join_payload(frames({"a", "b"}), {}, kLimits);
  ASSERT_TRUE(joined);
  EXPECT_EQ(texts(*joined), (std::vector<std::string>{"a", "b"}));
}

TEST(Payload, IsRefusedOverTheLimits) {
  EXPECT_TRUE(check_payload(frames({"1", "2", "3"}), kLimits));
  EXPECT_EQ(check_payload(frames({"1", "2", "3", "4"}), kLimits).error().code, Code::kTooLarge);
  EXPECT_TRUE(check_payload(frames({std::string(20, 'x')}), kLimits));
  EXPECT_EQ(check_payload(frames({std::string(20, 'x'), "y"}), kLimits).error().code, Code::kTooLarge);
}

TEST(Payload, IsRefusedWhenItsSizesAreNotThoseOfWhatCame) {
  struct Case {
    std::vector<std::string> pieces;
    std::vector<std::uint64_t> sizes;
    Code code;
  };
  const std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  const Case cases[]{
      {{"1234", "5"}, {6}, Code::kInvalidArgument},      // too few bytes
      {{"1234", "5"}, {4}, Code::kInvalidArgument},      // a piece too many
      {{"1234", "56"}, {5}, Code::kInvalidArgument},     // across a border
      {{"1234"}, {4, 0}, Code::kInvalidArgument},        // a frame too few
      {{"1234"}, {0, 4}, Code::kInvalidArgument},        // an empty frame that is not
      {{"1234", "", "5"}, {5}, Code::kInvalidArgument},  // an empty piece
      {{}, {1}, Code::kInvalidArgument},
      {{"1234"}, {21}, Code::kTooLarge},
      {{"1234"}, {huge}, Code::kTooLarge},
      {{"1234"}, {huge, 2}, Code::kTooLarge},  // would wrap to 1
      {{"1234"}, {19, huge}, Code::kTooLarge},
      {{"1", "1", "1", "1"}, {1, 1, 1, 1}, Code::kTooLarge},  // more frames than are taken
      {{"1", "1", "1", "1"}, {}, Code::kTooLarge},
  };
  for (const auto& [pieces, sizes, code] : cases) {
    const auto joined = join_payload(frames(pieces), sizes, kLimits);
    ASSERT_FALSE(joined);
    EXPECT_EQ(joined.error().code, code) << joined.error().message;
  }
}

}  // namespace
}  // namespace slipway

#include "lib/wire/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace slipway {
namespace {

Digest digest_of(int value) {
  Digest digest;
  digest.bytes.fill(static_cast<std::uint8_t>(value));
  return digest;
}

Job a_job() {
  return {.id = JobId("job-7"),
          .state = JobState::kRetrying,
          .document = R"({"seed": 7})",
          .spec_digest = digest_of(1),
          .model = "fashion",
          .dataset = "fashion-mnist",
          .dataset_version = 3,
          .dataset_digest = digest_of(2),
          .seed = 1ULL << 63,
          .attempt = 2,
          .cancel_requested = true,
          .reason = "NAN_LOSS",
          .message = "loss was nan",
          .created_ms = -5,
          .started_ms = 6,
          .finished_ms = 7,
          .version = 8,
          .progress = {.epoch = 1,
                       .epochs = 2,
                       .step = 3,
                       .steps = 4,
                       .rows_per_second = 5.5,
                       .seconds_left = -1,
                       .learning_rate = 0.001,
                       .metrics = {{"loss", 0.25}, {"accuracy", 0.5}}},
          .worker = WorkerId("w"),
          .request_id = "r"};
}

template <class T>
T round_trip(const T& body) {
  const Frame frame = encode({.correlation = 42, .deadline_ms = 7, .request_id = "req", .body = body});
  auto decoded = decode(frame.bytes());
  EXPECT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->correlation, 42U);
  EXPECT_EQ(decoded->deadline_ms, 7U);
  EXPECT_EQ(decoded->request_id, "req");
  EXPECT_EQ(decoded->body.index(), msg::Body(body).index());
  return std::get<T>(decoded->body);
}

template <std::size_t... I>
void each_kind_comes_back_as_itself(std::index_sequence<I...>) {
  (
      [] {
        using Kind = std::variant_alternative_t<I, msg::Body>;
        const Frame frame = encode({.correlation = 0, .deadline_ms = 0, .request_id = {}, .body = Kind{}});
        auto decoded = decode(frame.bytes());
        ASSERT_TRUE(decoded) << "kind " << I << ": " << decoded.error().message;
        EXPECT_EQ(decoded->body.index(), I);
      }(),
      ...);
}

TEST(Codec, EachKindOfMessageComesBackAsItself) {
  each_kind_comes_back_as_itself(std::make_index_sequence<std::variant_size_v<msg::Body>>{});
}

TEST(Codec, KeepsEveryFieldOfARequest) {
  const msg::RunJob sent{.job = a_job(),
                         .lease = {.job = JobId("job-7"), .epoch = 9, .holder = WorkerId("w"), .duration_ms = 10}};
  const auto came = round_trip(sent);
  EXPECT_EQ(came.job, sent.job);
  EXPECT_EQ(came.lease, sent.lease);

  const auto infer = round_trip(msg::Infer{.model = "m", .version = 2, .inputs = {{"x", DType::kU8, {-1, 28, 28}}}});
  EXPECT_EQ(infer.inputs, (std::vector<TensorSpec>{{"x", DType::kU8, {-1, 28, 28}}}));

  const auto beat = round_trip(msg::Heartbeat{.credits = 3, .loaded = {{"m", 1}, {"n", 2}}, .draining = true});
  EXPECT_EQ(beat.loaded, (std::vector<msg::VersionKey>{{"m", 1}, {"n", 2}}));
  EXPECT_TRUE(beat.draining);
}

TEST(Codec, KeepsEveryFieldOfARecord) {
  const Dataset dataset{.name = "d",
                        .version = 1,
                        .digest = digest_of(3),
                        .format = "csv",
                        .rows = 506,
                        .test_rows = 1,
                        .row_shape = {13},
                        .dtype = DType::kF32,
                        .classes = 2,
                        .columns = {{"crim", false, 0.1, 88.9, false, {}}, {"kind", true, 0, 0, false, {"a", "b"}}},
                        .files = {{"boston.csv", 100, digest_of(4), {digest_of(5), digest_of(6)}}},
                        .created_ms = 1,
                        .size_bytes = 100};
  const std::string bytes = encode_record(dataset);
  const auto back = decode_record<Dataset>(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, dataset);
}

// Small ZeroMQ frames arrive at any address, and Cap'n Proto throws at one that is not a multiple of 8.
TEST(Codec, DecodesAFrameAtAnyAlignment) {
  const Frame frame =
      encode({.correlation = 5, .deadline_ms = 0, .request_id = {}, .body = msg::GetJob{JobId("job-1")}});
  for (std::size_t shift = 0; shift < 8; ++shift) {
    std::vector<std::byte> buffer(shift);
    buffer.insert(buffer.end(), frame.bytes().begin(), frame.bytes().end());
    const auto decoded = decode(std::span(buffer).subspan(shift, frame.size()));
    ASSERT_TRUE(decoded) << "shift " << shift << ": " << decoded.error().message;
    EXPECT_EQ(std::get<msg::GetJob>(decoded->body).id, JobId("job-1"));
  }
}

TEST(Codec, RefusesAnotherProtocol) {
  const Frame frame = encode({.correlation = 5, .deadline_ms = 0, .request_id = {}, .body = msg::Ok{}});
  std::vector<std::byte> bytes(frame.bytes().begin(), frame.bytes().end());
  bool found = false;  // the protocol is the one 16-bit number 1 in the data section
  for (std::size_t i = 16; i + 1 < bytes.size() && !found; i += 2) {
    if (bytes[i] == std::byte{1} && bytes[i + 1] == std::byte{0}) {
      bytes[i] = std::byte{9};
      found = true;
    }
  }
  const auto decoded = decode(bytes);
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code, Code::kUnsupported);
  EXPECT_EQ(decoded.error().message, "protocol 9 came, this release speaks 1");
}

TEST(Codec, RefusesAnEnvelopeOverTheLimit) {
  const std::vector<std::byte> bytes(kMaxEnvelopeBytes + 8);
  EXPECT_EQ(decode(bytes).error().code, Code::kTooLarge);
}

TEST(Codec, RefusesAMessageOfManySegments) {
  for (const std::uint32_t count : {4U, 0xFFFFFFFFU, 0x7FFFFFFFU}) {
    std::vector<std::byte> bytes(64);
    std::memcpy(bytes.data(), &count, sizeof count);
    EXPECT_EQ(decode(bytes).error().code, Code::kInvalidArgument);
  }
}

// Whatever a peer sends is an Error or a message, never a crash or an endless walk.
TEST(Codec, SurvivesTruncatedMutatedAndRandomBytes) {
  std::mt19937_64 random(20260701);
  const Frame frame = encode(
      {.correlation = 5, .deadline_ms = 0, .request_id = "abc", .body = msg::RunJob{.job = a_job(), .lease = {}}});
  for (std::size_t size = 0; size < frame.size(); ++size) (void)decode(frame.bytes().first(size));
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes(frame.bytes().begin(), frame.bytes().end());
    for (int change = 0; change < 1 + i % 4; ++change) bytes[random() % bytes.size()] = std::byte(random());
    (void)decode(bytes);
  }
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes(8 * (random() % 40));
    for (auto& byte : bytes) byte = std::byte(random());
    if (!bytes.empty() && i % 2 == 0) std::memset(bytes.data(), 0, 4);
    (void)decode(bytes);
    (void)decode_record<Job>(bytes);
  }
}

TEST(Codec, CarriesAnErrorWithCodePathAndRetry) {
  const Error error{
      .code = Code::kOverloaded, .message = "full", .path = "$.fit", .retry_after = std::chrono::milliseconds(250)};
  const Error back = from_message(round_trip(to_message(error)));
  EXPECT_EQ(back.code, error.code);
  EXPECT_EQ(back.message, error.message);
  EXPECT_EQ(back.path, error.path);
  EXPECT_EQ(back.retry_after, error.retry_after);
  EXPECT_EQ(from_message({.code = 200, .message = {}, .retry_after_ms = 0, .path = {}}).code, Code::kInternal);
}

}  // namespace
}  // namespace slipway

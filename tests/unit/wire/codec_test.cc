#include "lib/wire/codec.h"

#include <capnp/any.h>
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "schema/records.capnp.h"

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

std::uint32_t segments_of(std::span<const std::byte> bytes) {
  std::uint32_t less_one = 0;
  std::memcpy(&less_one, bytes.data(), sizeof less_one);
  return less_one + 1;
}

StoredFile a_file(std::size_t chunks) {
  StoredFile file{.name = "weights.safetensors", .size_bytes = chunks << 22, .digest = digest_of(1), .chunks = {}};
  for (std::size_t i = 0; i < chunks; ++i) file.chunks.push_back(digest_of(static_cast<int>(i % 200) + 1));
  return file;
}

constexpr std::size_t kLargestFile = 16'384;  // chunks of 64 GiB

Dataset a_table(std::size_t columns, std::size_t categories, std::size_t text_bytes) {
  Dataset table;
  table.name = "t";
  table.format = "csv";
  table.files = {a_file(kLargestFile)};
  for (std::size_t i = 0; i < columns; ++i) {
    Column column{.name = "c" + std::to_string(i), .text = true, .categories = {}};
    for (std::size_t j = 0; j < categories; ++j) column.categories.push_back(std::string(text_bytes, 'x'));
    table.columns.push_back(std::move(column));
  }
  return table;
}

Model a_model(std::size_t aliases) {
  Model model{.name = std::string(kMaxNameBytes, 'm'), .latest = 7, .aliases = {}, .created_ms = 1, .updated_ms = 2};
  for (std::size_t i = 0; i < aliases; ++i) model.aliases.push_back({std::string(kMaxNameBytes, 'a'), i + 1});
  return model;
}

Version a_version(std::size_t classes, std::size_t name_bytes) {
  Version version;
  version.model = "m";
  version.files = {a_file(kLargestFile)};
  version.signature.inputs = {{"x", DType::kF32, {-1, 28, 28}}};
  version.signature.outputs.assign(kMaxTensors, {"y", DType::kI64, {-1, 3}});
  version.signature.classes.assign(classes, std::string(name_bytes, 'c'));
  return version;
}

template <class Record>
void comes_back(const Record& record) {
  ASSERT_TRUE(fits(record)) << fits(record).error().message;
  const std::string bytes = encode_record(record);
  EXPECT_EQ(bytes.size(), encoded_bytes(record));
  EXPECT_EQ(segments_of(std::as_bytes(std::span(bytes))), 1U);
  const auto back = decode_record<Record>(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_TRUE(*back == record);
}

// Records made of many small pieces: what the limits of data sets, models and files allow.
TEST(Codec, ReadsBackEveryRecordAtItsLimits) {
  comes_back(a_table(1, 1'000, 1'048));  // one column with 1 MiB of texts
  comes_back(a_table(524, 1'000, 2));    // the same in as many pieces as there can be
  comes_back(a_table(1'000, 0, 0));
  comes_back(a_model(10'000));
  comes_back(a_version(10'000, 100));
  comes_back(a_version(kMaxListItems, 8));
  comes_back(a_file(kLargestFile));
  comes_back(Checkpoint{.job = JobId("job-1"), .number = 3, .attempt = 1, .files = {a_file(kLargestFile), a_file(3)}});
  Job job = a_job();
  job.document = std::string(1 << 20, 'd');
  job.progress.metrics.assign(1'000, {"a_metric_with_a_name", 0.5});
  comes_back(job);
  comes_back(
      JobEvent{.id = 1, .at_ms = 2, .kind = "epoch", .message = std::string(65'536, 'm'), .progress = job.progress});
  comes_back(Lease{.job = JobId("job-1"), .epoch = 2, .holder = WorkerId("w"), .token = std::string(64, 't')});
  comes_back(Alias{.name = std::string(kMaxNameBytes, 'a'), .version = 1});
  comes_back(AliasMove{.model = "m", .alias = "a", .reason = std::string(65'536, 'r'), .actor = "x", .number = 9});
  comes_back(Quarantine{.digest = digest_of(1), .model = "m", .version = 1, .reason = std::string(4096, 'r')});
}

template <class T>
void travels(const T& body) {
  const msg::Envelope envelope{.correlation = 5,
                               .request_id = std::string(kMaxRequestIdBytes, 'r'),
                               .secret = std::string(256, 's'),
                               .payload_bytes = std::vector<std::uint64_t>(kMaxPayloadFrames, 1),
                               .body = body};
  const auto fitting = encode(envelope, kMaxEnvelopeBytes);
  ASSERT_TRUE(fitting) << fitting.error().message;
  const Frame frame = encode(envelope);
  EXPECT_TRUE(std::ranges::equal(fitting->bytes(), frame.bytes()));
  EXPECT_EQ(frame.size(), encoded_bytes(envelope));
  EXPECT_EQ(segments_of(frame.bytes()), 1U);
  const auto back = decode(frame.bytes());
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->payload_bytes, envelope.payload_bytes);
  EXPECT_EQ(back->secret, envelope.secret);
  EXPECT_TRUE(std::holds_alternative<T>(back->body));
}

TEST(Codec, ReadsBackEveryLongMessageAtItsLimits) {
  travels(msg::UploadedFiles{.files = std::vector<StoredFile>(4, a_file(kLargestFile))});
  travels(msg::UploadedFiles{.files = std::vector<StoredFile>(1'000, a_file(1))});
  travels(msg::Datasets{.items = {a_table(524, 1'000, 2)}});
  travels(msg::Models{.items = std::vector<Model>(1'000, a_model(1))});
  travels(msg::Versions{.items = {a_version(10'000, 100)}});
  travels(msg::Jobs{.items = std::vector<Job>(1'000, a_job())});
  travels(msg::JobEvents{
      .items = std::vector<JobEvent>(1'000, {.kind = "epoch", .message = {}, .progress = a_job().progress})});
  travels(msg::Infer{.model = "m", .inputs = std::vector<TensorSpec>(kMaxTensors, {"x", DType::kF32, {1, 2, 3}})});
  travels(msg::Heartbeat{.loaded = std::vector<msg::VersionKey>(10'000, {std::string(kMaxNameBytes, 'm'), 1})});
  travels(msg::Quarantines{
      .items = std::vector<Quarantine>(1'000, {.digest = digest_of(1), .model = "m", .reason = "crashed"})});
  travels(msg::Inspect{.file = a_file(kLargestFile), .signature = a_version(10'000, 40).signature});
}

TEST(Codec, SaysWhereItIsMadeThatAMessageOrRecordWouldBeRefused) {
  const auto code_of = [](msg::Body body) {
    const auto encoded = encode({.request_id = {}, .body = std::move(body)}, kMaxEnvelopeBytes);
    return encoded ? Code{} : encoded.error().code;
  };
  EXPECT_EQ(code_of(msg::GetModel{std::string(kMaxEnvelopeBytes, 'm')}), Code::kTooLarge);
  EXPECT_EQ(fits(a_file(kMaxListItems + 1)).error().code, Code::kTooLarge);
  EXPECT_EQ(code_of(msg::UploadedFiles{{a_file(kMaxListItems + 1)}}), Code::kTooLarge);
  Job job = a_job();
  job.document = std::string(kMaxRecordBytes, 'd');
  EXPECT_EQ(fits(job).error().code, Code::kTooLarge);
}

// Earlier releases wrote a record of many pieces in as many segments as it took.
TEST(Codec, ReadsARecordOfUpTo512Segments) {
  for (const unsigned chunks : {16U, 100U, 506U}) {
    capnp::MallocMessageBuilder builder(8, capnp::AllocationStrategy::FIXED_SIZE);
    auto file = builder.initRoot<schema::StoredFile>();
    file.setName("f");
    auto list = file.initChunks(chunks);
    const std::vector<capnp::byte> digest(32, 7);
    for (unsigned i = 0; i < chunks; ++i) list.set(i, capnp::Data::Reader(digest.data(), digest.size()));
    const auto words = capnp::messageToFlatArray(builder);
    const auto bytes = std::as_bytes(std::span(words.begin(), words.size()));
    EXPECT_GE(segments_of(bytes), 5U);
    EXPECT_LE(segments_of(bytes), 512U);
    const auto back = decode_record<StoredFile>(bytes);
    ASSERT_TRUE(back) << chunks << ": " << back.error().message;
    EXPECT_EQ(back->chunks, std::vector<Digest>(chunks, digest_of(7)));
  }
}

// The schema's own generated code reads what is written here, and the other way round.
TEST(Codec, WritesAndReadsWhatTheSchemaSays) {
  Dataset dataset;
  dataset.name = "boston";
  dataset.dtype = DType::kI64;
  dataset.row_shape = {13, -1};
  dataset.columns = {{"crim", false, 0.25, 88.5, false, {}}, {"kind", true, 0, 0, true, {"a", "", "c"}}};
  dataset.files = {{"boston.csv", 1ULL << 40, digest_of(4), {digest_of(5), digest_of(6)}}};
  const std::string bytes = encode_record(dataset);
  std::vector<capnp::word> words(bytes.size() / sizeof(capnp::word));
  std::memcpy(words.data(), bytes.data(), bytes.size());
  capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()));
  const auto read = reader.getRoot<schema::Dataset>();
  EXPECT_EQ(std::string_view(read.getName().cStr()), "boston");
  EXPECT_EQ(static_cast<int>(read.getDtype()), static_cast<int>(DType::kI64));
  EXPECT_EQ(read.getRowShape()[1], -1);
  EXPECT_EQ(read.getColumns()[0].getMin(), 0.25);
  EXPECT_FALSE(read.getColumns()[0].getText());
  EXPECT_TRUE(read.getColumns()[1].getText());
  EXPECT_EQ(std::string_view(read.getColumns()[1].getCategories()[2].cStr()), "c");
  EXPECT_EQ(read.getFiles()[0].getSizeBytes(), 1ULL << 40);
  EXPECT_EQ(read.getFiles()[0].getChunks()[1].size(), 32U);

  capnp::MallocMessageBuilder builder;
  builder.setRoot(read);
  const auto copied = capnp::messageToFlatArray(builder);
  const auto back = decode_record<Dataset>(std::as_bytes(std::span(copied.begin(), copied.size())));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, dataset);
}

TEST(Codec, ChangesTheDeadlineOfAnEncodedEnvelope) {
  const msg::Envelope envelope{
      .correlation = 5, .deadline_ms = 9'000, .request_id = "r", .body = msg::GetJob{JobId("job-1")}};
  const auto changed = decode(with_deadline(encode(envelope), 17).bytes());
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->deadline_ms, 17U);
  EXPECT_EQ(changed->correlation, 5U);
  EXPECT_EQ(changed->request_id, "r");
  EXPECT_EQ(std::get<msg::GetJob>(changed->body).id, JobId("job-1"));
}

// Lists that other kinds of elements were written to where structs are wanted.
TEST(Codec, RefusesOrReadsListsOfAnotherKind) {
  const auto with_list = [](auto fill) {
    capnp::MallocMessageBuilder builder;
    auto root = capnp::toAny(builder.initRoot<schema::Dataset>());
    auto pointers = root.getPointerSection();
    for (unsigned i = 0; i < pointers.size(); ++i) fill(pointers[i]);
    const auto words = capnp::messageToFlatArray(builder);
    return decode_record<Dataset>(std::as_bytes(std::span(words.begin(), words.size())));
  };
  EXPECT_FALSE(with_list([](auto pointer) { pointer.template initAs<capnp::List<bool>>(100); }));
  EXPECT_FALSE(with_list([](auto pointer) { pointer.template initAs<capnp::List<capnp::Void>>(1U << 28); }));
  (void)with_list([](auto pointer) { pointer.template initAs<capnp::List<std::uint8_t>>(100); });
  (void)with_list([](auto pointer) { pointer.template initAs<capnp::List<std::uint64_t>>(100); });
  (void)with_list([](auto pointer) { pointer.template initAs<capnp::List<capnp::Text>>(100); });
}

TEST(Codec, KeepsAnEnumeratorOfALaterRelease) {
  Job job = a_job();
  job.state = static_cast<JobState>(1'000);
  const std::string bytes = encode_record(job);
  const auto back = decode_record<Job>(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, job);
  EXPECT_EQ(round_trip(msg::Changed{.subject = static_cast<msg::Subject>(99), .key = {}}).subject,
            static_cast<msg::Subject>(99));
}

// A list whose every item points to the same long text: few bytes, much to read.
TEST(Codec, RefusesARecordThatTakesFarMoreToReadThanToSend) {
  constexpr unsigned kItems = 4'000;
  capnp::MallocMessageBuilder builder(20'000);
  auto list = builder.initRoot<schema::Version>().initSignature().initClasses(kItems);
  for (unsigned i = 0; i < kItems; ++i) list.init(i, 7);
  auto words = capnp::messageToFlatArray(builder);
  auto* number = reinterpret_cast<std::uint64_t*>(words.begin());
  ASSERT_TRUE(decode_record<Version>(std::as_bytes(std::span(words.begin(), words.size()))));
  const std::size_t first = words.size() - 2UL * kItems;  // the pointers, then the texts
  for (unsigned i = 0; i < kItems; ++i) {
    number[first + i] = (std::uint64_t{kItems - i - 1} << 2) | 1 | (2ULL << 32) | (std::uint64_t{8 * kItems} << 35);
  }
  const auto back = decode_record<Version>(std::as_bytes(std::span(words.begin(), words.size())));
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().code, Code::kDataLoss);
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

TEST(Codec, ChangesTheProtocolAlone) {
  const msg::Envelope envelope{.correlation = 5, .deadline_ms = 3, .request_id = "r", .body = msg::GetModel{"m"}};
  const auto changed = decode(with_protocol(encode(envelope), 9).bytes(), {9, 9});
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_EQ(changed->protocol, 9);
  EXPECT_EQ(changed->correlation, 5U);
  EXPECT_EQ(changed->deadline_ms, 3U);
  EXPECT_EQ(std::get<msg::GetModel>(changed->body).model, "m");
}

TEST(Codec, RefusesAnEnvelopeOverTheLimit) {
  const std::vector<std::byte> bytes(kMaxEnvelopeBytes + 8);
  EXPECT_EQ(decode(bytes).error().code, Code::kTooLarge);
}

TEST(Codec, RefusesAMessageOfManySegments) {
  for (const std::uint32_t count : {512U, 0xFFFFFFFFU, 0x7FFFFFFFU}) {
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

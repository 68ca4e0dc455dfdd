// What an earlier release wrote is read, and what this one writes an earlier one can read: fields are only added.
#include <gtest/gtest.h>

#include "lib/wire/codec.h"
#include "tests/unit/wire/earlier_messages.h"

namespace slipway {
namespace {

std::vector<std::byte> bytes_of_hex(std::string_view hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

template <class T>
T body_of(std::string_view hex, std::uint64_t correlation) {
  const auto read = decode(bytes_of_hex(hex));
  EXPECT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->correlation, correlation);
  EXPECT_EQ(read->deadline_ms, 250U);
  EXPECT_EQ(read->request_id, "req-1");
  EXPECT_EQ(read->secret, "");
  EXPECT_EQ(read->protocol, 1);
  EXPECT_EQ(read->protocols, (msg::ProtocolRange{1, 1})) << "it speaks what it writes";
  return std::get<T>(read->body);
}

template <class T>
T record_of(std::string_view hex) {
  auto read = decode_record<T>(bytes_of_hex(hex));
  EXPECT_TRUE(read) << read.error().message;
  return read.value_or(T{});
}

Digest digest_filled_with(int value) {
  Digest digest;
  digest.bytes.fill(static_cast<std::uint8_t>(value));
  return digest;
}

Lease a_lease() {
  Lease lease;
  lease.job = JobId("job-7");
  lease.holder = WorkerId("w");
  lease.epoch = 4;
  return lease;
}

Version a_version() {
  Version version;
  version.model = "fashion";
  version.number = 9;
  version.files = {
      {.name = "model.pt", .size_bytes = 5, .digest = digest_filled_with(2), .chunks = {digest_filled_with(2)}}};
  version.signature.inputs = {{.name = "x", .dtype = DType::kF32, .shape = {-1, 4}}};
  return version;
}

Job an_earlier_job() {
  Job job;
  job.id = JobId("job-7");
  job.state = JobState::kRetrying;
  job.document = "{}";
  job.spec_digest = digest_filled_with(1);
  job.model = "fashion";
  job.dataset = "mnist";
  job.dataset_version = 3;
  job.seed = 1ULL << 63;
  job.attempt = 2;
  job.created_ms = -5;
  job.progress.epoch = 1;
  job.progress.metrics = {{"loss", 0.25}};
  job.worker = WorkerId("w");
  return job;
}

TEST(EarlierRelease, ItsMessagesAreRead) {
  const auto hello = body_of<msg::Hello>(earlier::kHello, 0);
  EXPECT_EQ(hello.release, "r");
  EXPECT_EQ(hello.role, msg::Role::kInferencer);
  EXPECT_EQ(hello.worker_id, WorkerId("w"));
  EXPECT_EQ(hello.host, "h");

  const auto beat = body_of<msg::Heartbeat>(earlier::kHeartbeat, 0);
  EXPECT_EQ(beat.credits, 7U);
  EXPECT_EQ(beat.loaded, (std::vector<msg::VersionKey>{{"m", 1}, {"n", 2}}));
  EXPECT_TRUE(beat.draining);

  const auto infer = body_of<msg::Infer>(earlier::kInfer, 42);
  EXPECT_EQ(infer.model, "m");
  EXPECT_EQ(infer.inputs, (std::vector<TensorSpec>{{.name = "x", .dtype = DType::kI64, .shape = {3, 4}}}));
  EXPECT_FALSE(infer.alone);

  const auto report = body_of<msg::ReportJob>(earlier::kReportJob, 43);
  EXPECT_EQ(report.lease, a_lease());
  EXPECT_EQ(report.number, 0U);

  const auto move = body_of<msg::MoveAlias>(earlier::kMoveAlias, 44);
  EXPECT_EQ(move.alias, "prod");
  EXPECT_EQ(move.to, 3U);
  EXPECT_TRUE(move.check_expected);
  EXPECT_EQ(move.expected, 2U);
  EXPECT_EQ(move.actor, "me");

  EXPECT_EQ(body_of<msg::Versions>(earlier::kVersions, 45).items, std::vector{a_version()});

  const auto changed = body_of<msg::Changed>(earlier::kChanged, 0);
  EXPECT_EQ(changed.revision, 12U);
  EXPECT_EQ(changed.subject, msg::Subject::kModel);
  EXPECT_EQ(changed.key, "m");
}

TEST(EarlierRelease, ItsRecordsAreRead) {
  EXPECT_EQ(record_of<Job>(earlier::kJob), an_earlier_job());
  EXPECT_EQ(record_of<Lease>(earlier::kLease), a_lease());
  EXPECT_EQ(record_of<Version>(earlier::kVersion), a_version());
}

}  // namespace
}  // namespace slipway

#include "services/registry/server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/pfr.hpp>
#include <functional>
#include <future>
#include <latch>
#include <optional>
#include <thread>

#include "lib/obs/metrics.h"
#include "lib/wire/caller.h"
#include "tests/support/watched_log.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

// Stands in for a chunk on the disk whose reads take until it is opened.
class SlowChunk {
 public:
  SlowChunk(const std::filesystem::path& data_dir, const std::string& content) {
    const std::string hex = to_hex(sha256(content));
    const std::string path = (data_dir / "chunks" / hex.substr(0, 2) / hex.substr(2)).string();
    made_ = ::mkfifo(path.c_str(), 0600) == 0;
    fd_ = ::open(path.c_str(), O_RDWR);
  }
  ~SlowChunk() { ::close(fd_); }
  SlowChunk(const SlowChunk&) = delete;
  SlowChunk& operator=(const SlowChunk&) = delete;
  [[nodiscard]] bool good() const { return made_ && fd_ >= 0; }
  // Each read ends with one byte.
  [[nodiscard]] bool release(int reads) const { return ::write(fd_, std::string(reads, 'x').data(), reads) == reads; }

 private:
  bool made_ = false;
  int fd_ = -1;
};

// The value of a metric without labels.
double metric(const std::string& name) {
  for (const auto& family : obs::collect()) {
    if (family.name != name || family.metric.empty()) continue;
    return family.type == prometheus::MetricType::Gauge ? family.metric[0].gauge.value : family.metric[0].counter.value;
  }
  return -1;
}

class ServerTest : public testing::Test {
 protected:
  void SetUp() override { start(); }
  void TearDown() override { stop(); }

  void start() {
    bus_ = std::make_unique<Bus>();
    options_.data_dir = folder_.path();
    options_.calls_address = options_.events_address = "127.0.0.1:0";
    options_.jobs.min_between_checkpoints = 0ms;
    auto server = Server::start(*bus_, options_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    caller_ = std::make_unique<Caller>(*bus_, "127.0.0.1:" + std::to_string(server_->calls_port()));
  }
  void stop() {
    caller_.reset();
    server_.reset();
    bus_.reset();
  }

  template <class T>
  Result<T> ask(msg::Body question, std::vector<Frame> payload = {}) {
    return Caller::as<T>(
        caller_->call_and_wait(std::move(question), std::move(payload), {.deadline = 20s, .request_id = {}}));
  }
  UploadId upload(const std::string& name, const std::string& content) {
    const auto opened = ask<msg::UploadOpened>(msg::OpenUpload{});
    EXPECT_TRUE(opened) << opened.error().message;
    const auto taken =
        ask<msg::Ok>(msg::UploadPart{.upload = opened->upload, .file = name, .last = true, .decompress = true},
                     {Frame::copy(content)});
    EXPECT_TRUE(taken) << taken.error().message;
    return opened->upload;
  }

  // More reads of a slow chunk than the pool has threads: nothing else there has its turn.
  static constexpr int kReads = 16;
  void read_slowly(const std::string& content) {
    for (int i = 0; i < kReads; ++i) {
      caller_->call(msg::GetChunk{.digest = sha256(content)}, {}, {.deadline = 20s, .request_id = {}}, [](auto) {});
    }
  }

  Folder folder_;
  std::optional<SlowChunk> slow_;  // outlives the server, which may still be about to open it
  ServerOptions options_;
  std::unique_ptr<Bus> bus_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Caller> caller_;
};

TEST_F(ServerTest, TakesAJobFromItsDatasetToItsVersionAndKeepsItAcrossARestart) {
  const auto stored =
      ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a,b\n1,2\n3,4\n"), .name = "d"});
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_TRUE(stored->created);
  EXPECT_EQ(stored->dataset.rows, 2U);
  const auto again =
      ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("u.csv", "a,b\n1,2\n3,4\n"), .name = "d"});
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->created);

  msg::CreateJob create;
  create.job.document = "{}";
  create.job.model = "m";
  create.job.dataset = "d";
  ASSERT_TRUE(ask<msg::Jobs>(create));
  const auto run = ask<msg::RunJob>(msg::ClaimJob{.worker = WorkerId("w")});
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(run->job.document, "{}");
  ASSERT_TRUE(ask<msg::JobOrders>(msg::ReportJob{.lease = run->lease, .events = {}}));
  const auto published = ask<msg::Versions>(msg::Publish{
      .lease = run->lease, .upload = upload("model.pt", "weights"), .signature = some_signature(), .metrics = {}});
  ASSERT_TRUE(published) << published.error().message;

  stop();
  start();
  const auto version = ask<msg::Versions>(msg::GetVersion{.model = "m", .alias = {}});
  ASSERT_TRUE(version);
  EXPECT_EQ(version->items, published->items);
  const auto chunk =
      caller_->call_and_wait(msg::GetChunk{.digest = version->items.at(0).files.at(0).chunks.at(0)}, {}, {});
  ASSERT_TRUE(chunk);
  EXPECT_EQ(chunk->payload.at(0).text(), "weights");
  EXPECT_EQ(ask<msg::Jobs>(msg::GetJob{.id = run->job.id})->items.at(0).state, JobState::kSucceeded);
  EXPECT_EQ(ask<msg::Datasets>(msg::ListDatasets{})->items.size(), 1U);
}

TEST_F(ServerTest, KeepsTheOrderOfPartsThatAreSentAhead) {
  const auto opened = ask<msg::UploadOpened>(msg::OpenUpload{});
  ASSERT_TRUE(opened);
  constexpr int kParts = 40;
  std::latch answered(kParts);
  std::atomic<int> failed{0};
  std::string whole;
  for (int i = 0; i < kParts; ++i) {
    const std::string part(300'000, static_cast<char>('a' + i % 26));
    caller_->call(
        msg::UploadPart{.upload = opened->upload, .file = "f", .offset_bytes = whole.size(), .last = i == kParts - 1},
        {Frame::copy(part)}, {.deadline = 20s, .request_id = {}}, [&](auto answer) {
          if (!answer || !std::holds_alternative<msg::Ok>(answer->envelope.body)) ++failed;
          answered.count_down();
        });
    whole += part;
  }
  answered.wait();
  EXPECT_EQ(failed, 0);
  const auto files = ask<msg::UploadedFiles>(msg::GetUpload{.upload = opened->upload});
  ASSERT_TRUE(files) << files.error().message;
  EXPECT_EQ(files->files.at(0).digest, sha256(whole));
  EXPECT_EQ(files->files.at(0).chunks.size(), 3U);
}

TEST_F(ServerTest, KeepsAnUploadedVersionOnceAlsoWhenAskedTwice) {
  const msg::CommitVersion question{
      .upload = upload("model.pt", "weights"), .model = "m", .signature = some_signature(), .actor = "ann"};
  const auto first = ask<msg::Versions>(question);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_TRUE(first->items.at(0).uploaded);
  EXPECT_EQ(ask<msg::Versions>(question)->items, first->items);
  EXPECT_EQ(ask<msg::Models>(msg::GetModel{.model = "m"})->items.at(0).latest, 1U);
}

TEST_F(ServerTest, LooksAtADatasetOnceHoweverOftenItsCommitIsRepeated) {
  const msg::CommitDataset question{.upload = upload("t.csv", "a\n1\n"), .name = "d"};
  const auto first = ask<msg::DatasetStored>(question);
  ASSERT_TRUE(first) << first.error().message;
  const std::string hex = to_hex(sha256("a\n1\n"));
  ASSERT_TRUE(std::filesystem::remove(folder_.path() / "chunks" / hex.substr(0, 2) / hex.substr(2)));
  const auto again = ask<msg::DatasetStored>(question);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->dataset, first->dataset);
  // With another file it is another data set, which has to be looked at.
  ASSERT_TRUE(
      ask<msg::Ok>(msg::UploadPart{.upload = question.upload, .file = "u.csv", .last = true}, {Frame::copy("a\n2\n")}));
  EXPECT_FALSE(ask<msg::DatasetStored>(question));
}

TEST_F(ServerTest, GivesUpWhatNobodyWaitsForAnyMore) {
  slow_.emplace(folder_.path(), "slow");
  ASSERT_TRUE(slow_->good());
  const auto opened = ask<msg::UploadOpened>(msg::OpenUpload{});
  ASSERT_TRUE(opened);
  read_slowly("slow");
  const auto late = caller_->call_and_wait(msg::UploadPart{.upload = opened->upload, .file = "f", .last = true},
                                           {Frame::copy("x")}, {.deadline = 50ms, .request_id = {}});
  EXPECT_EQ(late.error().code, Code::kDeadlineExceeded);
  // Another one waits as long: the first is late by the registry's clock too.
  const auto later =
      caller_->call_and_wait(msg::GetChunk{.digest = sha256("other")}, {}, {.deadline = 50ms, .request_id = {}});
  EXPECT_EQ(later.error().code, Code::kDeadlineExceeded);
  ASSERT_TRUE(slow_->release(kReads));
  const auto files = ask<msg::UploadedFiles>(msg::GetUpload{.upload = opened->upload});
  ASSERT_FALSE(files);
  EXPECT_THAT(files.error().message, HasSubstr("no files"));
}

TEST_F(ServerTest, DoesNotStartWhatWaitsForThePoolWhenItStops) {
  ASSERT_TRUE(ask<msg::UploadedFiles>(msg::GetUpload{.upload = upload("f", "content")}));
  slow_.emplace(folder_.path(), "slow");
  ASSERT_TRUE(slow_->good());
  read_slowly("slow");
  std::promise<Result<Message>> answered;
  caller_->call(msg::GetChunk{.digest = sha256("content")}, {}, {.deadline = 20s, .request_id = {}},
                [&](auto answer) { answered.set_value(std::move(answer)); });
  ASSERT_TRUE(ask<msg::Models>(msg::ListModels{}));  // so the one before has come
  auto stopped = std::async(std::launch::async, [this] { server_->stop(); });
  while (server_->not_ready().empty()) std::this_thread::yield();
  ASSERT_TRUE(slow_->release(kReads));
  const auto answer = answered.get_future().get();
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Code::kUnavailable);
  stopped.get();
}

TEST_F(ServerTest, LimitsTheCallsThatWaitForThePool) {
  slow_.emplace(folder_.path(), "slow");
  ASSERT_TRUE(slow_->good());
  stop();
  options_.max_queued_calls = 1;
  options_.max_answer_bytes_per_peer = options_.max_answer_bytes = 1 << 30;
  start();
  struct Refusals {
    std::atomic<int> count{0};
    std::promise<void> enough;
  };
  const auto refusals = std::make_shared<Refusals>();
  constexpr int kPool = 4;
  for (int i = 0; i < kReads; ++i) {
    caller_->call(msg::GetChunk{.digest = sha256("slow")}, {}, {.deadline = 20s, .request_id = {}},
                  [refusals](auto answer) {
                    if (answer || answer.error().code != Code::kOverloaded) return;
                    if (++refusals->count == kReads - kPool - 1) refusals->enough.set_value();
                  });
  }
  EXPECT_EQ(refusals->enough.get_future().wait_for(20s), std::future_status::ready);
  ASSERT_TRUE(slow_->release(kReads));
}

TEST_F(ServerTest, NamesWhatIsWrong) {
  EXPECT_EQ(ask<msg::Ok>(msg::Hello{}).error().code, Code::kUnsupported);
  EXPECT_EQ(ask<msg::Ok>(msg::Nothing{}).error().code, Code::kUnsupported);
  EXPECT_EQ(ask<msg::Jobs>(msg::GetJob{.id = JobId("job-1")}).error().code, Code::kNotFound);
  EXPECT_EQ(ask<msg::Jobs>(msg::GetJob{.id = JobId("job-1")}, {Frame::copy("x")}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(ask<msg::Ok>(msg::UploadPart{}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(ask<msg::Ok>(msg::UploadPart{}, {Frame::copy("x")}).error().code, Code::kNotFound);
  EXPECT_EQ(ask<msg::UploadedFiles>(msg::GetUpload{}).error().code, Code::kNotFound);
  EXPECT_EQ(ask<msg::Ok>(msg::GetChunk{.digest = sha256("x")}).error().code, Code::kNotFound);
  const auto bad = ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\nx\n"), .name = "d"});
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, HasSubstr("t.csv: row 2, column 'a'"));
  EXPECT_EQ(ask<msg::DatasetStored>(msg::CommitDataset{.upload = {}, .name = "a/b"}).error().code,
            Code::kInvalidArgument);

  const auto gone = upload("t.csv", "a\n1\n");
  ASSERT_TRUE(ask<msg::Ok>(msg::AbortUpload{.upload = gone}));
  EXPECT_EQ(ask<msg::UploadedFiles>(msg::GetUpload{.upload = gone}).error().code, Code::kUnavailable);
}

TEST_F(ServerTest, TellsSubscribersOfEveryCommit) {
  std::promise<msg::Changed> told;
  std::atomic<bool> first{true};
  Bus bus;
  const auto subscribed =
      bus.connect_subscriber("127.0.0.1:" + std::to_string(server_->events_port()), [&](Incoming in) {
        const auto* change = std::get_if<msg::Changed>(&in.message.envelope.body);
        if (change == nullptr || change->subject == msg::Subject::kNothing) return;
        if (first.exchange(false)) told.set_value(*change);
      });
  ASSERT_TRUE(subscribed);
  auto future = told.get_future();
  // The subscription takes its time to arrive, so there is one new data set after the other until it has.
  int count = 0;
  while (future.wait_for(20ms) != std::future_status::ready && count < 500) {
    const std::string content = "a\n" + std::to_string(++count) + "\n";
    ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", content), .name = "d"}));
  }
  const auto change = future.get();
  EXPECT_EQ(change.subject, msg::Subject::kDataset);
  EXPECT_EQ(change.key, "d");
  EXPECT_GE(change.revision, 1U);
}

TEST_F(ServerTest, SaysItsRevisionToWhoMissedTheLastEvent) {
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d"}));
  std::promise<msg::Changed> told;
  std::atomic<bool> first{true};
  Bus bus;  // ends before what its thread writes
  ASSERT_TRUE(bus.connect_subscriber("127.0.0.1:" + std::to_string(server_->events_port()), [&](Incoming in) {
    const auto* change = std::get_if<msg::Changed>(&in.message.envelope.body);
    if (change != nullptr && first.exchange(false)) told.set_value(*change);
  }));
  const auto change = told.get_future().get();
  EXPECT_EQ(change.subject, msg::Subject::kNothing);
  EXPECT_EQ(change.revision, 1U);
}

TEST_F(ServerTest, RefusesUploadsWhileTheDiskIsFullAndAnswersReads) {
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d"}));
  stop();
  options_.min_free_bytes = 1ULL << 62;
  start();
  const auto refused = ask<msg::UploadOpened>(msg::OpenUpload{});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_GT(refused.error().retry_after, 0ms);
  EXPECT_TRUE(ask<msg::Datasets>(msg::GetDataset{.name = "d"}));
}

TEST_F(ServerTest, LimitsOpenUploadsAndQueuedBytes) {
  stop();
  options_.uploads.max_open = options_.uploads.max_open_of_all = 1;
  options_.max_queued_upload_bytes = 10;
  start();
  const auto opened = ask<msg::UploadOpened>(msg::OpenUpload{});
  ASSERT_TRUE(opened);
  EXPECT_EQ(ask<msg::UploadOpened>(msg::OpenUpload{}).error().code, Code::kOverloaded);
  // One part may always wait; the next one finds it there still.
  slow_.emplace(folder_.path(), "slow");
  ASSERT_TRUE(slow_->good());
  std::promise<bool> first;
  caller_->call(msg::UploadPart{.upload = opened->upload, .file = "f", .last = true}, {Frame::copy("slow")},
                {.deadline = 20s, .request_id = {}}, [&](auto answer) { first.set_value(answer.has_value()); });
  const msg::UploadPart second{.upload = opened->upload, .file = "g", .last = true};
  const auto part = ask<msg::Ok>(second, {Frame::copy("more")});
  EXPECT_EQ(part.error().code, Code::kOverloaded);
  EXPECT_GT(part.error().retry_after, 0ms);
  ASSERT_TRUE(slow_->release(1));
  EXPECT_TRUE(first.get_future().get());
  EXPECT_TRUE(ask<msg::Ok>(second, {Frame::copy("more")}));
  ASSERT_TRUE(ask<msg::Ok>(msg::AbortUpload{.upload = opened->upload}));
  EXPECT_TRUE(ask<msg::UploadOpened>(msg::OpenUpload{}));
}

TEST_F(ServerTest, TakesALostJobBack) {
  stop();
  options_.jobs.lease = 100ms;
  start();
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d"}));
  msg::CreateJob create;
  create.job.document = "{}";
  create.job.model = "m";
  create.job.dataset = "d";
  ASSERT_TRUE(ask<msg::Jobs>(create));
  const auto run = ask<msg::RunJob>(msg::ClaimJob{.worker = WorkerId("w")});
  ASSERT_TRUE(run);
  Result<msg::RunJob> next = fail(Code::kNotFound, "");
  for (int i = 0; i < 1000 && !next; ++i) {
    next = ask<msg::RunJob>(msg::ClaimJob{.worker = WorkerId("w2")});
    if (!next) std::this_thread::sleep_for(10ms);  // between two questions, not for the outcome
  }
  ASSERT_TRUE(next);
  EXPECT_EQ(next->lease.epoch, run->lease.epoch + 1);
  EXPECT_EQ(ask<msg::JobOrders>(msg::ReportJob{.lease = run->lease, .events = {}}).error().code, Code::kConflict);
}

// Every field of every kind of message, filled with something of its type.
template <class T>
void fill(T& value) {
  if constexpr (std::is_same_v<T, Digest>) {
    value = sha256("x");
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = "x";
  } else if constexpr (requires { value.text(); }) {
    value = T("x");
  } else if constexpr (requires { value.push_back({}); }) {
    value.resize(1);
    fill(value[0]);
  } else if constexpr (std::is_enum_v<T> || std::is_arithmetic_v<T>) {
    value = static_cast<T>(1);
  } else if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    boost::pfr::for_each_field(value, [](auto& field) { fill(field); });
  }
}

// Calls `send` with the kind empty, filled, and filled but for each of its fields.
template <class Kind, class Send>
void each_gap(const Send& send) {
  send(Kind{});
  Kind whole;
  fill(whole);
  send(whole);
  if constexpr (boost::pfr::tuple_size_v<Kind> > 0) {
    boost::pfr::for_each_field(whole, [&](auto& field) {
      auto kept = std::exchange(field, {});
      send(whole);
      field = std::move(kept);
    });
  }
}

TEST_F(ServerTest, AnswersEveryKindOfMessageWithWhateverFieldMissing) {
  int sent = 0;
  const auto send = [&](const msg::Body& question) {
    for (const bool with_payload : {false, true}) {
      std::vector<Frame> payload;
      if (with_payload) payload.push_back(Frame::copy("x"));
      const auto answer = caller_->call_and_wait(question, std::move(payload), {.deadline = 20s, .request_id = "a\nb"});
      ++sent;
      if (answer) continue;
      EXPECT_NE(answer.error().code, Code::kDeadlineExceeded) << "kind " << question.index();
      EXPECT_NE(answer.error().code, Code::kInternal) << answer.error().message;
    }
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (each_gap<std::variant_alternative_t<I, msg::Body>>(send), ...);
  }(std::make_index_sequence<std::variant_size_v<msg::Body>>());
  EXPECT_GT(sent, 200);
  EXPECT_EQ(ask<msg::Ok>(msg::GetChunk{}).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(ask<msg::Models>(msg::ListModels{}));
  EXPECT_EQ(server_->not_ready(), "");
}

TEST_F(ServerTest, AsksForTheClustersSecret) {
  stop();
  options_.cluster_secret = "of the cluster";
  start();
  EXPECT_EQ(ask<msg::Models>(msg::ListModels{}).error().code, Code::kUnavailable);
  for (const std::string& shown : {std::string("of the clusteR"), std::string("of the cluster and more")}) {
    Caller wrong(*bus_, "127.0.0.1:" + std::to_string(server_->calls_port()), shown);
    EXPECT_EQ(Caller::as<msg::UploadOpened>(wrong.call_and_wait(msg::OpenUpload{}, {}, {})).error().code,
              Code::kUnavailable);
  }
  Caller right(*bus_, "127.0.0.1:" + std::to_string(server_->calls_port()), options_.cluster_secret);
  EXPECT_TRUE(Caller::as<msg::Models>(right.call_and_wait(msg::ListModels{}, {}, {})));
}

// Sends a file in a window of parts, and those again from the first one on that found no place.
Result<void> upload_in_window(Caller& caller, const std::string& content, std::size_t part_bytes, UploadId& id) {
  constexpr std::size_t kWindow = 8;
  const auto opened = Caller::as<msg::UploadOpened>(caller.call_and_wait(msg::OpenUpload{}, {}, {}));
  if (!opened) return std::unexpected(opened.error());
  id = opened->upload;
  const std::size_t parts = content.size() / part_bytes;
  for (std::size_t next = 0; next < parts;) {
    std::vector<std::future<Result<Message>>> answers;
    for (std::size_t i = next; i < std::min(parts, next + kWindow); ++i) {
      auto answered = std::make_shared<std::promise<Result<Message>>>();
      answers.push_back(answered->get_future());
      caller.call(msg::UploadPart{.upload = id, .file = "f", .offset_bytes = i * part_bytes, .last = i + 1 == parts},
                  {Frame::copy(std::string_view(content).substr(i * part_bytes, part_bytes))},
                  {.deadline = 60s, .request_id = {}}, [answered](auto answer) { answered->set_value(answer); });
    }
    std::optional<std::size_t> refused;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const auto answer = Caller::as<msg::Ok>(answers[i].get());
      if (answer) continue;
      if (answer.error().code != Code::kOverloaded) return std::unexpected(answer.error());
      if (!refused) refused = i;
    }
    next += refused.value_or(answers.size());
  }
  return {};
}

TEST_F(ServerTest, TakesSixtyUploadsAtOnceThroughANarrowGate) {
  stop();
  options_.max_queued_upload_bytes = 1 << 20;
  start();
  constexpr int kUploads = 60;
  constexpr std::size_t kPart = 64 << 10;
  std::vector<std::future<std::string>> all;
  for (int i = 0; i < kUploads; ++i) {
    all.push_back(std::async(std::launch::async, [this, i]() -> std::string {
      const std::string content = std::string(8, static_cast<char>('0' + i)) + std::string(16 * kPart - 8, 'x');
      UploadId id;
      if (auto sent = upload_in_window(*caller_, content, kPart, id); !sent) return sent.error().message;
      const auto files = ask<msg::UploadedFiles>(msg::GetUpload{.upload = id});
      if (!files) return files.error().message;
      return files->files.at(0).digest == sha256(content) ? "" : "other bytes";
    }));
  }
  for (auto& one : all) EXPECT_EQ(one.get(), "");
}

TEST_F(ServerTest, DropsTheUploadsOfAPeerThatHasGone) {
  stop();
  options_.uploads.max_open = options_.uploads.max_open_of_all = 1;
  options_.uploads.gone = 0ms;
  start();
  {
    Bus other;
    Caller gone(other, "127.0.0.1:" + std::to_string(server_->calls_port()));
    ASSERT_TRUE(Caller::as<msg::UploadOpened>(gone.call_and_wait(msg::OpenUpload{}, {}, {})));
    EXPECT_EQ(ask<msg::UploadOpened>(msg::OpenUpload{}).error().code, Code::kOverloaded);
  }
  Result<msg::UploadOpened> opened = fail(Code::kOverloaded, "");
  for (int i = 0; i < 2'000 && !opened; ++i) {
    opened = ask<msg::UploadOpened>(msg::OpenUpload{});
    if (!opened) std::this_thread::sleep_for(10ms);  // between two questions, not for the outcome
  }
  ASSERT_TRUE(opened) << opened.error().message;
}

TEST_F(ServerTest, SaysThatAnUploadFromBeforeItsStartIsToBeSentAgain) {
  const UploadId open = upload("model.pt", "weights");
  const msg::CommitVersion question{
      .upload = upload("model.pt", "weights"), .model = "m", .signature = some_signature(), .actor = "ann"};
  const auto first = ask<msg::Versions>(question);
  ASSERT_TRUE(first) << first.error().message;
  stop();
  start();
  EXPECT_EQ(ask<msg::Versions>(question)->items, first->items);
  auto other = question;
  other.upload = open;
  EXPECT_EQ(ask<msg::Versions>(other).error().code, Code::kUnavailable);
  EXPECT_EQ(ask<msg::UploadedFiles>(msg::GetUpload{.upload = open}).error().code, Code::kUnavailable);
  other.model = "no/name";
  EXPECT_EQ(ask<msg::Versions>(other).error().code, Code::kInvalidArgument);
}

TEST_F(ServerTest, APublicationsKeyIsForOneActorFileAndSignature) {
  const auto publish = [&](const std::string& bytes, const std::string& actor, const std::string& key) {
    return ask<msg::Versions>(msg::CommitVersion{.upload = upload("model.pt", bytes),
                                                 .model = "m",
                                                 .signature = some_signature(),
                                                 .actor = actor,
                                                 .idempotency_key = key});
  };
  const auto first = publish("weights", "ann", "k");
  ASSERT_TRUE(first) << first.error().message;
  const auto again = publish("weights", "ann", "k");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->items, first->items);
  const auto other = publish("other weights", "ann", "k");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::kConflict);
  EXPECT_EQ(publish("weights", "ann", "l")->items.at(0).number, 2U);
  EXPECT_EQ(publish("weights", "bob", "k")->items.at(0).number, 3U);
  EXPECT_EQ(publish("weights", "ann", "")->items.at(0).number, 4U);
  EXPECT_EQ(publish("weights", "ann", std::string(256, 'k')).error().code, Code::kTooLarge);
  stop();
  start();
  EXPECT_EQ(publish("weights", "ann", "k")->items, first->items);
}

TEST_F(ServerTest, QuarantinesAFileAndLiftsIt) {
  const auto made = ask<msg::Versions>(msg::CommitVersion{
      .upload = upload("model.pt", "weights"), .model = "m", .signature = some_signature(), .actor = {}});
  ASSERT_TRUE(made);
  const Quarantine quarantine{.digest = sha256("weights"), .model = "m", .version = 1, .reason = "it crashed"};
  ASSERT_TRUE(ask<msg::Ok>(msg::QuarantineFile{.quarantine = quarantine}));
  ASSERT_TRUE(ask<msg::Ok>(msg::QuarantineFile{.quarantine = quarantine}));
  EXPECT_EQ(ask<msg::Versions>(msg::GetVersion{.model = "m", .alias = {}})->items.at(0).quarantined, "it crashed");
  ASSERT_EQ(ask<msg::Quarantines>(msg::ListQuarantines{})->items.size(), 1U);
  EXPECT_EQ(ask<msg::Versions>(msg::LiftQuarantine{.model = "m", .version = 2, .actor = {}}).error().code,
            Code::kNotFound);
  EXPECT_EQ(ask<msg::Versions>(msg::LiftQuarantine{.model = "m", .version = 1, .actor = "ann"})->items, made->items);
  EXPECT_TRUE(ask<msg::Quarantines>(msg::ListQuarantines{})->items.empty());
}

TEST_F(ServerTest, StartsWithRecordsThatItCannotRead) {
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d"}));
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n2\n"), .name = "e"}));
  stop();
  {
    auto store = RocksStore::open(folder_.path() / "db", {});
    ASSERT_TRUE(store);
    Batch batch;
    batch.put(Family::kDatasets, numbered_key("d", 1), "damaged");
    batch.put(Family::kJobs, number_key(1), "damaged");
    ASSERT_TRUE((*store)->commit(std::move(batch)));
  }
  std::mutex mutex;
  std::vector<std::string> lines;
  const WatchedLog log([&](const std::string& line) {
    const std::lock_guard lock(mutex);
    lines.push_back(line);
  });
  start();
  EXPECT_EQ(ask<msg::Datasets>(msg::ListDatasets{})->items.size(), 1U);
  EXPECT_TRUE(ask<msg::Jobs>(msg::ListJobs{})->items.empty());
  EXPECT_EQ(ask<msg::Datasets>(msg::GetDataset{.name = "d"}).error().code, Code::kDataLoss);
  const auto listed = ask<msg::Unreadable>(msg::ListUnreadable{});
  ASSERT_TRUE(listed);
  EXPECT_EQ(listed->total, 2U);
  ASSERT_EQ(listed->items.size(), 2U);
  EXPECT_EQ(listed->items[0].family, "datasets");
  EXPECT_EQ(listed->items[1].family, "jobs");
  const std::string counted = "slipway_registry_unreadable_records";
  for (int i = 0; i < 2'000 && metric(counted) != 2; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(metric(counted), 2);
  stop();
  for (const auto& [family, key] : {std::pair("datasets", numbered_key("d", 1)), std::pair("jobs", number_key(1))}) {
    const std::string begin = std::format("record set aside family={} key={} bytes=7 ", family, key);
    EXPECT_THAT(lines, testing::Contains(testing::StartsWith(begin)).Times(1));
  }
}

TEST_F(ServerTest, AnswersACallThatEndsInAFaultAndGoesOn) {
  const std::string counted = "slipway_registry_handler_failures_total";
  const double before = metric(counted);
  {
    const WatchedLog log([](const std::string& line) {
      if (line.starts_with("data set stored")) throw std::runtime_error("the log is full");
    });
    const auto answer =
        ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d", .actor = {}});
    EXPECT_EQ(answer.error().code, Code::kInternal);
    EXPECT_THAT(answer.error().message, HasSubstr("commitDataset"));
    EXPECT_TRUE(ask<msg::Models>(msg::ListModels{}));
    stop();
  }
  EXPECT_EQ(metric(counted), before + 1);
}

TEST_F(ServerTest, TheRequestsIdCannotForgeALineOfTheLog) {
  std::mutex mutex;
  std::vector<std::string> lines;
  {
    const WatchedLog log([&](const std::string& line) {
      const std::lock_guard lock(mutex);
      lines.push_back(line);
    });
    const msg::CommitVersion question{
        .upload = upload("model.pt", "weights"), .model = "m", .signature = some_signature(), .actor = {}};
    ASSERT_TRUE(caller_->call_and_wait(
        question, {}, {.deadline = 20s, .request_id = "a\nalias moved model=m alias=prod to=1 actor=ann"}));
    stop();
  }
  EXPECT_THAT(lines, testing::Contains(testing::StartsWith("version uploaded")));
  EXPECT_THAT(lines, testing::Not(testing::Contains(HasSubstr("\n"))));
}

TEST_F(ServerTest, AnswersListingsWhileTheWriterIsBusy) {
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a\n1\n"), .name = "d"}));
  const auto second = upload("t.csv", "a\n2\n");
  std::promise<void> busy;
  std::promise<void> go_on;
  {
    const WatchedLog log([&](const std::string& line) {
      if (!line.starts_with("data set stored")) return;
      busy.set_value();
      go_on.get_future().wait();
    });
    std::promise<bool> stored;
    caller_->call(msg::CommitDataset{.upload = second, .name = "e"}, {}, {.deadline = 60s, .request_id = {}},
                  [&](auto answer) { stored.set_value(answer.has_value()); });
    busy.get_future().wait();
    const auto listed = ask<msg::Datasets>(msg::ListDatasets{});
    EXPECT_TRUE(listed) << listed.error().message;
    EXPECT_TRUE(ask<msg::Datasets>(msg::GetDataset{.name = "d"}));
    EXPECT_TRUE(ask<msg::Jobs>(msg::ListJobs{}));
    go_on.set_value();
    EXPECT_TRUE(stored.get_future().get());
    stop();
  }
}

TEST_F(ServerTest, DeletesTheChunksOfACheckpointThatHasGivenWay) {
  stop();
  options_.retire_every = 10ms;
  options_.retire_grace = 0ms;
  start();
  const std::string shared = "a\n1\n";
  ASSERT_TRUE(
      ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", shared), .name = "d", .actor = "ann"}));
  EXPECT_EQ(ask<msg::Datasets>(msg::GetDataset{.name = "d"})->items.at(0).actor, "ann");
  msg::CreateJob create;
  create.job.document = "{}";
  create.job.model = "m";
  create.job.dataset = "d";
  ASSERT_TRUE(ask<msg::Jobs>(create));
  const auto run = ask<msg::RunJob>(msg::ClaimJob{.worker = WorkerId("w")});
  ASSERT_TRUE(run);
  for (const std::string& content : {std::string("one"), shared, std::string("two"), std::string("three")}) {
    ASSERT_TRUE(ask<msg::Ok>(msg::CommitCheckpoint{.lease = run->lease, .upload = upload("c", content)}));
  }
  const auto there = [&](const std::string& content) {
    const std::string hex = to_hex(sha256(content));
    return std::filesystem::exists(folder_.path() / "chunks" / hex.substr(0, 2) / hex.substr(2));
  };
  for (int i = 0; i < 2'000 && (there("one") || there("two")); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_FALSE(there("one"));
  EXPECT_FALSE(there("two"));
  EXPECT_TRUE(there("three"));
  EXPECT_TRUE(there(shared));
}

TEST_F(ServerTest, LetsChunksWaitWhenEnoughOfThemAreOnTheirWay) {
  stop();
  options_.max_answer_bytes_per_peer = 1;  // one at a time
  start();
  ASSERT_TRUE(ask<msg::UploadedFiles>(msg::GetUpload{.upload = upload("f", "content")}));
  std::vector<std::future<Result<Message>>> answers;
  for (int i = 0; i < 8; ++i) {
    auto answered = std::make_shared<std::promise<Result<Message>>>();
    answers.push_back(answered->get_future());
    caller_->call(msg::GetChunk{.digest = sha256("content")}, {}, {.deadline = 20s, .request_id = {}},
                  [answered](auto answer) { answered->set_value(std::move(answer)); });
  }
  for (auto& answer : answers) {
    const auto chunk = answer.get();
    ASSERT_TRUE(chunk) << chunk.error().message;
    EXPECT_EQ(chunk->payload.at(0).text(), "content");
  }
}

TEST_F(ServerTest, QueuesACallForAChunkOnceHoweverOftenItIsRepeated) {
  stop();
  options_.max_answer_bytes_per_peer = 1;  // one at a time
  start();
  const std::string slow_folder = "chunks/" + to_hex(sha256("slow")).substr(0, 2);
  std::filesystem::create_directories(folder_.path() / slow_folder);
  slow_.emplace(folder_.path(), "slow");
  ASSERT_TRUE(slow_->good());
  ASSERT_TRUE(ask<msg::UploadedFiles>(msg::GetUpload{.upload = upload("f", "content")}));

  std::mutex mutex;
  std::map<std::uint64_t, int> answers;  // by correlation
  std::promise<void> come, last;
  Bus other;
  const auto socket = other.connect_dealer("127.0.0.1:" + std::to_string(server_->calls_port()), [&](Incoming in) {
    const std::lock_guard lock(mutex);
    ++answers[in.message.envelope.correlation];
    if (in.message.envelope.correlation == 3) last.set_value();
    if (in.message.envelope.correlation == 4) come.set_value();
  });
  ASSERT_TRUE(socket);
  const auto send = [&](std::uint64_t correlation, msg::Body question) {
    Message message;
    message.envelope.correlation = correlation;
    message.envelope.body = std::move(question);
    EXPECT_TRUE(other.send(*socket, std::move(message)));
  };
  send(1, msg::GetChunk{.digest = sha256("slow")});
  for (int i = 0; i < 10; ++i) send(2, msg::GetChunk{.digest = sha256("content")});
  send(3, msg::GetChunk{.digest = sha256("content")});  // has its turn last
  send(4, msg::ListModels{});                           // answered at once, and so those before have come
  ASSERT_EQ(come.get_future().wait_for(20s), std::future_status::ready);
  ASSERT_TRUE(slow_->release(1));
  EXPECT_EQ(last.get_future().wait_for(20s), std::future_status::ready);
  const std::lock_guard lock(mutex);
  EXPECT_EQ(answers, (std::map<std::uint64_t, int>{{1, 1}, {2, 1}, {3, 1}, {4, 1}}));
}

TEST_F(ServerTest, SaysThatItStops) {
  EXPECT_EQ(server_->not_ready(), "");
  server_->stop();
  EXPECT_NE(server_->not_ready(), "");
  EXPECT_EQ(ask<msg::Models>(msg::ListModels{}).error().code, Code::kUnavailable);
}

TEST_F(ServerTest, MakesBackupsWhenItHasAFolderForThem) {
  const auto none = ask<msg::Backups>(msg::CreateBackup{});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kUnsupported);
  EXPECT_THAT(none.error().message, HasSubstr("--backup-dir"));
  EXPECT_EQ(ask<msg::Ok>(msg::ReadBackup{.id = "1", .file = "x"}).error().code, Code::kUnsupported);

  stop();
  const Folder backups;
  options_.backup_dir = backups.path() / "not" / "there" / "yet";
  start();
  ASSERT_TRUE(ask<msg::DatasetStored>(msg::CommitDataset{.upload = upload("t.csv", "a,b\n1,2\n3,4\n"), .name = "d"}));
  const auto begun = ask<msg::Backups>(msg::CreateBackup{.keep = 3, .actor = "ann"});
  ASSERT_TRUE(begun) << begun.error().message;
  const std::string id = begun->items.at(0).id;
  msg::Backup made;
  do {
    const auto now = ask<msg::Backups>(msg::ListBackups{.id = id});
    ASSERT_TRUE(now) << now.error().message;
    made = now->items.at(0);
  } while (made.state == msg::BackupState::kRunning);
  EXPECT_EQ(made.state, msg::BackupState::kSucceeded) << made.reason;
  EXPECT_EQ(made.actor, "ann");
  EXPECT_GT(metric("slipway_registry_last_backup_timestamp_seconds"), 0);

  const auto files = ask<msg::BackupFiles>(msg::ListBackupFiles{.id = id, .after = 0, .limit = 0});
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_GT(files->items.size(), 3U);
  for (const auto& file : files->items) {
    const auto answer =
        caller_->call_and_wait(msg::ReadBackup{.id = id, .file = file.name}, {}, {.deadline = 20s, .request_id = {}});
    ASSERT_TRUE(answer) << answer.error().message;
    ASSERT_EQ(answer->payload.size(), 1U);
    EXPECT_EQ(answer->payload[0].size(), file.size_bytes) << file.name;
  }
  ASSERT_TRUE(ask<msg::Ok>(msg::DeleteBackup{.id = id, .actor = {}}));
  EXPECT_EQ(ask<msg::Backups>(msg::ListBackups{.id = id}).error().code, Code::kNotFound);
  EXPECT_EQ(ask<msg::BackupFiles>(msg::ListBackupFiles{.id = id}).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace slipway::registry

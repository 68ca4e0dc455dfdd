#include "services/registry/server.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <future>
#include <latch>
#include <optional>
#include <thread>

#include "lib/wire/caller.h"
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

class ServerTest : public testing::Test {
 protected:
  void SetUp() override { start(); }
  void TearDown() override { stop(); }

  void start() {
    bus_ = std::make_unique<Bus>();
    options_.data_dir = folder_.path();
    options_.calls_address = options_.events_address = "127.0.0.1:0";
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
  const auto later = caller_->call_and_wait(msg::GetChunk{}, {}, {.deadline = 50ms, .request_id = {}});
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
  EXPECT_EQ(ask<msg::UploadedFiles>(msg::GetUpload{.upload = gone}).error().code, Code::kNotFound);
}

TEST_F(ServerTest, TellsSubscribersOfEveryCommit) {
  std::promise<msg::Changed> told;
  std::atomic<bool> first{true};
  const auto subscribed =
      bus_->connect_subscriber("127.0.0.1:" + std::to_string(server_->events_port()), [&](Incoming in) {
        const auto* change = std::get_if<msg::Changed>(&in.message.envelope.body);
        if (change != nullptr && first.exchange(false)) told.set_value(*change);
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
  options_.uploads.max_open = 1;
  options_.max_queued_upload_bytes = 10;
  start();
  const auto opened = ask<msg::UploadOpened>(msg::OpenUpload{});
  ASSERT_TRUE(opened);
  EXPECT_EQ(ask<msg::UploadOpened>(msg::OpenUpload{}).error().code, Code::kOverloaded);
  const auto part =
      ask<msg::Ok>(msg::UploadPart{.upload = opened->upload, .file = "f"}, {Frame::copy("more than ten")});
  EXPECT_EQ(part.error().code, Code::kOverloaded);
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

TEST_F(ServerTest, SaysThatItStops) {
  EXPECT_EQ(server_->not_ready(), "");
  server_->stop();
  EXPECT_NE(server_->not_ready(), "");
  EXPECT_EQ(ask<msg::Models>(msg::ListModels{}).error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::registry

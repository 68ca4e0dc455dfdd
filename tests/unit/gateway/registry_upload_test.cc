#include "services/gateway/registry_upload.h"

#include <gmock/gmock.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_future.hpp>
#include <condition_variable>
#include <future>
#include <map>
#include <random>
#include <thread>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

constexpr std::size_t kMiB = 1 << 20;

// Takes parts as the registry does: a file's in order, one file after the other, repeats of what it has.
class FakeRegistry {
 public:
  // Called on the bus thread; what it returns is answered instead of taking the part.
  using Refuse = std::function<std::optional<Error>(const msg::UploadPart&)>;

  explicit FakeRegistry(Bus& bus) : bus_(bus) {
    socket_ = *bus.bind_router("127.0.0.1:0", [this](Incoming incoming) { on_message(std::move(incoming)); });
  }
  [[nodiscard]] std::string address() const { return std::format("127.0.0.1:{}", bus_.port(socket_)); }

  void refuse_parts(Refuse refuse) { refuse_ = std::move(refuse); }
  void refuse_opens(int times) { opens_to_refuse_ = times; }
  void refuse_commits(int times) { commits_to_refuse_ = times; }
  int opened() {
    const std::lock_guard lock(mutex_);
    return opened_;
  }
  std::vector<std::string> order() {
    const std::lock_guard lock(mutex_);
    return order_;
  }
  std::string content(const std::string& file) {
    const std::lock_guard lock(mutex_);
    return files_[file].content;
  }
  bool wait_aborted() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 30s, [this] { return aborts_ > 0; });
  }
  int aborts() {
    const std::lock_guard lock(mutex_);
    return aborts_;
  }

 private:
  struct File {
    std::string content;
    bool ended = false;
  };

  static Error overloaded() {
    return {.code = Code::kOverloaded, .message = "no room", .path = {}, .retry_after = 1ms};
  }

  Result<void> take(const msg::UploadPart& part, std::string_view bytes) {
    if (refuse_) {
      if (auto refused = refuse_(part)) return std::unexpected(*refused);
    }
    if (!order_.empty() && order_.back() != part.file && !files_[order_.back()].ended)
      return fail(Code::kInvalidArgument, "another file is open");
    if (!std::ranges::contains(order_, part.file)) order_.push_back(part.file);
    File& file = files_[part.file];
    if (part.offset_bytes + bytes.size() <= file.content.size() && (file.ended || !part.last)) return {};
    if (part.offset_bytes != file.content.size()) return fail(Code::kInvalidArgument, "a gap");
    file.content += bytes;
    file.ended = part.last;
    return {};
  }

  Result<msg::Body> answer(const Message& message) {
    const auto& body = message.envelope.body;
    if (std::holds_alternative<msg::OpenUpload>(body)) {
      if (opens_to_refuse_ > 0) {
        --opens_to_refuse_;
        return std::unexpected(overloaded());
      }
      ++opened_;
      return msg::UploadOpened{.upload = UploadId("u")};
    }
    if (const auto* part = std::get_if<msg::UploadPart>(&body)) {
      EXPECT_EQ(part->upload, UploadId("u"));
      EXPECT_LE(message.payload.at(0).size(), RegistryUpload::kPartBytes);
      return take(*part, message.payload.at(0).text()).transform([] { return msg::Body(msg::Ok{}); });
    }
    if (std::holds_alternative<msg::GetUpload>(body)) {
      msg::UploadedFiles files;
      for (const auto& name : order_)
        files.files.push_back({.name = name, .size_bytes = files_[name].content.size(), .digest = {}, .chunks = {}});
      return files;
    }
    if (const auto* commit = std::get_if<msg::CommitDataset>(&body)) {
      EXPECT_EQ(commit->upload, UploadId("u"));
      if (commits_to_refuse_ > 0) {
        --commits_to_refuse_;
        return std::unexpected(overloaded());
      }
      return msg::DatasetStored{.dataset = {}, .created = true};
    }
    if (std::holds_alternative<msg::AbortUpload>(body)) {
      ++aborts_;
      return msg::Ok{};
    }
    return fail(Code::kUnsupported, "not asked for here");
  }

  void on_message(Incoming incoming) {
    Result<msg::Body> body;
    {
      const std::lock_guard lock(mutex_);
      body = answer(incoming.message);
    }
    changed_.notify_all();
    (void)bus_.send(socket_, incoming.peer,
                    {.envelope = {.correlation = incoming.message.envelope.correlation,
                                  .deadline_ms = 0,
                                  .request_id = {},
                                  .body = body ? std::move(*body) : msg::Body(to_message(body.error()))},
                     .payload = {}});
  }

  Bus& bus_;
  SocketId socket_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  Refuse refuse_;
  int opens_to_refuse_ = 0;
  int commits_to_refuse_ = 0;
  int opened_ = 0;
  int aborts_ = 0;
  std::vector<std::string> order_;
  std::map<std::string, File> files_;
};

using Files = std::vector<std::pair<std::string, std::string>>;  // name, content

Task<Result<std::vector<StoredFile>>> send(RegistryUpload& upload, Files files, std::size_t piece_bytes) {
  for (const auto& [name, content] : files) {
    upload.begin_file(name, true);
    for (std::size_t at = 0; at < content.size(); at += piece_bytes) {
      if (auto done = co_await upload.write(std::string_view(content).substr(at, piece_bytes)); !done)
        co_return std::unexpected(done.error());
    }
    if (auto done = co_await upload.end_file(); !done) co_return std::unexpected(done.error());
  }
  co_return co_await upload.files();
}

std::string noise(std::size_t bytes, unsigned seed) {
  std::minstd_rand random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

struct RegistryUploadTest : testing::Test {
  Bus bus;
  FakeRegistry registry{bus};
  std::unique_ptr<Caller> caller = std::make_unique<Caller>(bus, registry.address());
  RegistryClient client{*caller, 30s};
  asio::io_context context{1};
  asio::executor_work_guard<Executor> work{context.get_executor()};
  std::thread thread{[this] { context.run(); }};
  UploadPatience patience{.place = 30s, .part = 30s, .away = 30s, .pause = 1ms};
  MemoryBudget budget{64 * kMiB};
  MemoryShare memory{budget};

  ~RegistryUploadTest() override {
    work.reset();
    caller->close();
    thread.join();
    bus.stop();
  }

  // On the coroutine's thread, as the upload wants it.
  template <class T>
  T run(std::function<Task<T>(RegistryUpload&)> what) {
    return asio::co_spawn(context, all(std::move(what)), asio::use_future).get();
  }
  template <class T>
  Task<T> all(std::function<Task<T>(RegistryUpload&)> what) {
    RegistryUpload upload(client, co_await asio::this_coro::executor, "r", patience, memory);
    co_return co_await what(upload);
  }
  Result<std::vector<StoredFile>> upload(const Files& files, std::size_t piece_bytes = 256 << 10) {
    return run<Result<std::vector<StoredFile>>>([&](RegistryUpload& to) { return send(to, files, piece_bytes); });
  }
};

TEST_F(RegistryUploadTest, SendsWhatIsRefusedForWantOfRoomAgainUntilItIsWhole) {
  std::minstd_rand random(7);
  registry.refuse_parts([&](const msg::UploadPart&) -> std::optional<Error> {
    if (random() % 100 >= 40) return std::nullopt;
    return Error{.code = Code::kOverloaded, .message = "no room", .path = {}, .retry_after = 1ms};
  });
  const Files files = {{"a", noise(12 * kMiB + 5, 1)}, {"b", noise(3, 2)}, {"c", ""}, {"d", noise(9 * kMiB, 3)}};
  const auto stored = upload(files);
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_THAT(registry.order(), ElementsAre("a", "b", "c", "d"));
  for (const auto& [name, content] : files) EXPECT_TRUE(registry.content(name) == content) << name;
}

TEST_F(RegistryUploadTest, ManySmallFilesKeepTheirOrderWhenPartsAreRefused) {
  std::minstd_rand random(9);
  registry.refuse_parts([&](const msg::UploadPart&) -> std::optional<Error> {
    if (random() % 100 >= 30) return std::nullopt;
    return Error{.code = Code::kUnavailable, .message = "a pause", .path = {}, .retry_after = 1ms};
  });
  Files files;
  std::vector<std::string> names;
  for (int i = 0; i < 150; ++i) {
    names.push_back(std::format("f{}", i));
    files.emplace_back(names.back(), noise(static_cast<std::size_t>(i), 1));
  }
  const auto stored = upload(files);
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_EQ(registry.order(), names);
  EXPECT_EQ(registry.content("f149"), files[149].second);
}

TEST_F(RegistryUploadTest, GoesOnWithFewerPartsAtOnceWhereMemoryIsShort) {
  budget.set_limit(2 * kMiB + kMiB / 2);
  std::atomic<std::uint64_t> most = 0;
  registry.refuse_parts([&](const msg::UploadPart&) -> std::optional<Error> {
    most = std::max(most.load(), budget.held_bytes());
    return std::nullopt;
  });
  const Files files = {{"a", noise(12 * kMiB + 5, 1)}, {"b", noise(3, 2)}, {"c", ""}, {"d", noise(3 * kMiB, 3)}};
  const auto stored = upload(files);
  ASSERT_TRUE(stored) << stored.error().message;
  for (const auto& [name, content] : files) EXPECT_TRUE(registry.content(name) == content) << name;
  EXPECT_GT(most, kMiB);
  EXPECT_LE(most, 2 * kMiB + kMiB / 2);
  EXPECT_EQ(budget.held_bytes(), 0U) << "all is given back";
}

TEST_F(RegistryUploadTest, IsRefusedWhereOthersHoldAllMemory) {
  MemoryShare others(budget);
  ASSERT_TRUE(others.take(64 * kMiB));
  const auto refused = upload({{"a", "x"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kOverloaded);
  budget.set_limit(1);
  others.keep(0);
  EXPECT_EQ(upload({{"a", "xyz"}}).error().code, Code::kTooLarge);
}

TEST_F(RegistryUploadTest, TakesAPlaceWithTheFirstMebibyteAndNotBefore) {
  const auto opened = run<std::vector<int>>([this](RegistryUpload& to) -> Task<std::vector<int>> {
    std::vector<int> seen;
    to.begin_file("a", true);
    EXPECT_TRUE(co_await to.write(std::string(kMiB, 'x')));
    seen.push_back(registry.opened());
    EXPECT_TRUE(co_await to.write("y"));
    seen.push_back(registry.opened());
    co_return seen;
  });
  EXPECT_THAT(opened, ElementsAre(0, 1));
}

TEST_F(RegistryUploadTest, TakesAPlaceWhenASmallBodyHasEnded) {
  const auto opened = run<std::vector<int>>([this](RegistryUpload& to) -> Task<std::vector<int>> {
    std::vector<int> seen;
    to.begin_file("a", true);
    EXPECT_TRUE(co_await to.write("x"));
    EXPECT_TRUE(co_await to.end_file());
    seen.push_back(registry.opened());
    EXPECT_TRUE(co_await to.files());
    seen.push_back(registry.opened());
    co_return seen;
  });
  EXPECT_THAT(opened, ElementsAre(0, 1));
}

TEST_F(RegistryUploadTest, WaitsForAPlace) {
  registry.refuse_opens(4);
  const auto stored = upload({{"a", "x"}});
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_EQ(registry.opened(), 1);
}

TEST_F(RegistryUploadTest, GivesUpWaitingForAPlaceWithTheRefusal) {
  registry.refuse_opens(1'000'000);
  patience.place = 20ms;
  const auto stored = upload({{"a", "x"}});
  ASSERT_FALSE(stored);
  EXPECT_EQ(stored.error().code, Code::kOverloaded);
  EXPECT_EQ(registry.aborts(), 0);
}

TEST_F(RegistryUploadTest, GivesUpWaitingForRoomAndGivesItsPlaceBack) {
  registry.refuse_parts([](const msg::UploadPart& part) -> std::optional<Error> {
    if (part.offset_bytes < 4 * kMiB) return std::nullopt;
    return Error{.code = Code::kOverloaded, .message = "no room", .path = {}, .retry_after = 1ms};
  });
  patience.part = 50ms;
  const auto stored = upload({{"a", noise(6 * kMiB, 1)}});
  ASSERT_FALSE(stored);
  EXPECT_EQ(stored.error().code, Code::kOverloaded);
  EXPECT_TRUE(registry.wait_aborted());
}

TEST_F(RegistryUploadTest, AClientsPauseDoesNotUseUpThePatience) {
  int refusals = 0;
  registry.refuse_parts([&](const msg::UploadPart& part) -> std::optional<Error> {
    if (part.offset_bytes < 2 * kMiB || ++refusals > 1) return std::nullopt;
    return Error{.code = Code::kOverloaded, .message = "no room", .path = {}, .retry_after = 1ms};
  });
  patience.part = 20ms;
  const auto stored =
      run<Result<std::vector<StoredFile>>>([&](RegistryUpload& to) -> Task<Result<std::vector<StoredFile>>> {
        to.begin_file("a", true);
        EXPECT_TRUE(co_await to.write(std::string(2 * kMiB, 'x')));
        asio::steady_timer pause(context, 2 * patience.part);
        co_await pause.async_wait(kUseTask);
        EXPECT_TRUE(co_await to.write(std::string(kMiB, 'x')));
        EXPECT_TRUE(co_await to.end_file());
        co_return co_await to.files();
      });
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_EQ(stored->at(0).size_bytes, 3 * kMiB);
}

TEST_F(RegistryUploadTest, WhatIsWrongWithAPartIsFinalAndTheUploadIsAborted) {
  registry.refuse_parts([](const msg::UploadPart& part) -> std::optional<Error> {
    if (part.offset_bytes < 2 * kMiB) return std::nullopt;
    return Error{.code = Code::kInvalidArgument, .message = "damaged gzip", .path = {}};
  });
  const auto stored = upload({{"a", noise(12 * kMiB, 1)}});
  ASSERT_FALSE(stored);
  EXPECT_EQ(stored.error().message, "damaged gzip");
  EXPECT_TRUE(registry.wait_aborted());
}

TEST_F(RegistryUploadTest, ACommitThatFindsAFullQueueIsAskedAgainAndLeavesNothingToAbort) {
  registry.refuse_commits(2);
  const auto stored = run<Result<msg::DatasetStored>>([](RegistryUpload& to) -> Task<Result<msg::DatasetStored>> {
    auto files = co_await send(to, {{"a", "x"}}, 1);
    EXPECT_TRUE(files);
    co_return co_await to.commit<msg::DatasetStored>(msg::CommitDataset{.upload = {}, .name = "d", .actor = {}});
  });
  ASSERT_TRUE(stored) << stored.error().message;
  EXPECT_TRUE(upload({{"b", "x"}}));  // not committed, and so aborted, after anything the first one had to say
  EXPECT_TRUE(registry.wait_aborted());
  EXPECT_EQ(registry.aborts(), 1);
}

}  // namespace
}  // namespace slipway::gateway

#include "services/inferencer/crash_guard.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <thread>

#include "lib/base/random_id.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/quarantine.h"

namespace slipway::inferencer {
namespace {

using namespace std::chrono_literals;

const Digest kFile = sha256("a file");
const msg::VersionKey kKey{"bad", 3};

volatile int levels = 1 << 30;
volatile int* volatile nowhere = nullptr;

// Deeper than any stack.
int sink(int level) {  // NOLINT(misc-no-recursion)
  volatile char here[512] = {};
  if (level >= levels) return 0;
  here[level % 512] = 1;
  return sink(level + 1) + here[0];
}

class CrashGuardTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!CrashGuard::kCatches) GTEST_SKIP() << "a sanitizer has these signals";
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // How a child process ends that does this.
  int end_of(const std::function<void()>& work, std::chrono::milliseconds wait = 10ms) {
    const pid_t child = fork();
    if (child == 0) {
      const auto guard = CrashGuard::start({.folder = folder_, .wait = wait});
      if (!guard) _exit(2);
      work();
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  }
  std::vector<Quarantine> marks() { return read_marks(folder_); }

  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("slipway-test-" + random_hex(64));
};

TEST_F(CrashGuardTest, ACrashInAScopeLeavesAMarkAndThenEndsTheProcess) {
  const std::vector<std::pair<int, std::function<void()>>> crashes{
      {SIGFPE, [] { raise(SIGFPE); }},
      {SIGABRT, [] { abort(); }},
      {SIGSEGV, [] { *nowhere = 1; }},
      {SIGSEGV, [] { static_cast<void>(sink(0)); }},
  };
  for (const auto& [signal, crash] : crashes) {
    remove_marks(folder_, kFile);
    const int status = end_of([&] {
      std::thread([&] {
        const CrashGuard::Scope scope(kKey, kFile, true);
        crash();
      }).join();
    });
    EXPECT_TRUE(WIFSIGNALED(status)) << signal;
    EXPECT_EQ(WTERMSIG(status), signal);
    ASSERT_EQ(marks().size(), 1U) << signal;
    EXPECT_EQ(marks()[0].digest, kFile);
    EXPECT_EQ(marks()[0].model, "bad");
    EXPECT_EQ(marks()[0].version, 3U);
    EXPECT_TRUE(marks()[0].reason.contains(std::to_string(signal))) << marks()[0].reason;
  }
}

TEST_F(CrashGuardTest, AnotherThreadIsToldAndMayEndTheProcessFirst) {
  const int status = end_of(
      [] {
        std::thread([] {
          const CrashGuard::Scope scope(kKey, kFile, true);
          raise(SIGSEGV);
        }).detach();
        while (!CrashGuard::crashed()) std::this_thread::yield();
        const auto crash = *CrashGuard::crashed();
        _exit(crash.key == kKey && crash.digest == kFile && crash.signal == SIGSEGV ? 42 : 1);
      },
      60s);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

TEST_F(CrashGuardTest, ACrashOutsideOfAScopeMarksNothing) {
  const int status = end_of([] {
    {
      const CrashGuard::Scope scope(kKey, kFile, true);
    }
    raise(SIGSEGV);
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(marks().empty());
}

// One bad moment must not take from everybody what was made here.
TEST_F(CrashGuardTest, ACrashOfAModelThatWasTrainedHereMarksNothing) {
  const int status = end_of([] {
    const CrashGuard::Scope scope(kKey, kFile, false);
    raise(SIGSEGV);
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(marks().empty());
}

class QuarantineMarks : public CrashGuardTest {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  // A process that dies without a word while it tries the file.
  void die_while(Trying::Stage stage) {
    const pid_t child = fork();
    if (child == 0) {
      const Trying trying(folder_, kKey, kFile, stage);
      raise(SIGKILL);
    }
    waitpid(child, nullptr, 0);
  }
  void die_while_loading() { die_while(Trying::Stage::kLoad); }
};

TEST_F(QuarantineMarks, AreReadAsTheyWereLeft) {
  ASSERT_TRUE(leave_mark(folder_, {.digest = kFile, .model = "m", .version = 7, .reason = "stuck", .at_ms = 0}));
  EXPECT_EQ(marks(),
            (std::vector<Quarantine>{{.digest = kFile, .model = "m", .version = 7, .reason = "stuck", .at_ms = 0}}));
  remove_marks(folder_, kFile);
  EXPECT_TRUE(marks().empty());
}

TEST_F(QuarantineMarks, OneKillWhileAFileIsLoadedIsNoneThreeInARowAre) {
  die_while_loading();
  die_while_loading();
  EXPECT_TRUE(marks().empty());
  die_while_loading();
  ASSERT_EQ(marks().size(), 1U);
  EXPECT_EQ(marks()[0].model, "bad");
  EXPECT_EQ(marks()[0].version, 3U);
  remove_marks(folder_, kFile);
  EXPECT_TRUE(marks().empty());
}

TEST_F(QuarantineMarks, ALoadThatComesToItsEndTakesTheStrikesBack) {
  die_while_loading();
  die_while_loading();
  {
    const Trying trying(folder_, kKey, kFile, Trying::Stage::kLoad);
  }
  die_while_loading();
  EXPECT_TRUE(marks().empty());
}

TEST_F(QuarantineMarks, AProcessThatTriedManyTimesAtOnceDiedOnce) {
  const pid_t child = fork();
  if (child == 0) {
    const Trying load(folder_, kKey, kFile, Trying::Stage::kLoad);
    const Trying one(folder_, kKey, kFile, Trying::Stage::kRun);
    const Trying two(folder_, kKey, kFile, Trying::Stage::kRun);
    const Trying three(folder_, kKey, kFile, Trying::Stage::kRun);
    raise(SIGKILL);
  }
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(marks().empty());
  die_while_loading();
  EXPECT_TRUE(marks().empty());
  die_while_loading();
  EXPECT_EQ(marks().size(), 1U);
}

TEST_F(QuarantineMarks, WhatALivingProcessTriesStaysMarked) {
  die_while_loading();
  die_while_loading();
  const Trying here(folder_, kKey, kFile, Trying::Stage::kRun);
  EXPECT_TRUE(marks().empty());
  remove_marks(folder_, kFile);
  const auto left = std::distance(std::filesystem::directory_iterator(folder_), {});
  EXPECT_EQ(left, 1);
}

// Loading it says nothing about what its first run does.
TEST_F(QuarantineMarks, ALoadDoesNotTakeTheStrikesOfRunsBackARunDoes) {
  const auto load = [this] { const Trying trying(folder_, kKey, kFile, Trying::Stage::kLoad); };
  for (int i = 0; i < 3; ++i) {
    load();
    EXPECT_TRUE(marks().empty());
    die_while(Trying::Stage::kRun);
  }
  EXPECT_EQ(marks().size(), 1U);
  {
    const Trying trying(folder_, kKey, kFile, Trying::Stage::kRun);
  }
  EXPECT_TRUE(marks().empty());
}

TEST_F(QuarantineMarks, OneThatLostItsBytesStillNamesTheFile) {
  const auto path = folder_ / (to_hex(kFile) + ".crashed");
  for (const std::string& bytes : {std::string(), std::string(40, '\0'), std::string("no name\nx")}) {
    std::ofstream(path) << bytes;
    ASSERT_EQ(marks().size(), 1U);
    EXPECT_EQ(marks()[0].digest, kFile);
    EXPECT_EQ(marks()[0].model, "");
    EXPECT_FALSE(marks()[0].reason.empty());
  }
}

TEST_F(QuarantineMarks, OtherFilesInTheFolderAreNone) {
  std::ofstream(folder_ / "hello.crashed") << "x";
  std::ofstream(folder_ / to_hex(kFile)) << "x";
  EXPECT_TRUE(marks().empty());
  // Of a release before.
  std::ofstream(folder_ / (to_hex(kFile) + ".quarantined")) << "it ran on";
  ASSERT_EQ(marks().size(), 1U);
  EXPECT_EQ(marks()[0].reason, "it ran on");
}

}  // namespace
}  // namespace slipway::inferencer

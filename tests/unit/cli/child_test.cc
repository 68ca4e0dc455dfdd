#include "cli/child.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>

#include <fstream>

#include "lib/base/random_id.h"

namespace slipway::cli {
namespace {

// Everything the child writes until it closes its output, and how it ended.
std::string run_to_end(Child& child, std::string& how) {
  std::string output;
  while (child.output() >= 0) {
    pollfd ready{.fd = child.output(), .events = POLLIN, .revents = 0};
    poll(&ready, 1, -1);
    output += child.read_output();
  }
  while (!child.reap(how)) poll(nullptr, 0, 1);  // its end follows right after its output's
  return output;
}

TEST(Child, GivesItsOutputAndItsExitCode) {
  Child child;
  ASSERT_TRUE(child.start({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}));
  std::string how;
  EXPECT_EQ(run_to_end(child, how), "out\nerr\n");
  EXPECT_EQ(how, "exit code 3");
  EXPECT_FALSE(child.running());
}

TEST(Child, SaysWhichSignalEndedIt) {
  Child child;
  ASSERT_TRUE(child.start({"/bin/sh", "-c", "echo up; exec sleep 600"}));
  EXPECT_EQ(getpgid(child.pid()), child.pid());
  child.signal(SIGKILL);
  std::string how;
  static_cast<void>(run_to_end(child, how));
  EXPECT_EQ(how, "signal 9 (Killed)");
}

TEST(Child, CanBeStartedAgain) {
  Child child;
  std::string how;
  for (const auto* word : {"one", "two"}) {
    ASSERT_TRUE(child.start({"/bin/echo", word}));
    EXPECT_EQ(run_to_end(child, how), std::string(word) + "\n");
  }
}

TEST(Child, IsAnErrorWhenTheProgramCannotBeRun) {
  Child child;
  const auto started = child.start({"/no/such/program"});
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, Code::kNotFound);
  EXPECT_THAT(started.error().message, testing::HasSubstr("/no/such/program"));
  EXPECT_FALSE(child.running());
}

TEST(ChildLog, CutsOutputIntoLinesAndKeepsTheLast) {
  const auto file = std::filesystem::path(testing::TempDir()) / ("slipway-log-" + random_hex(64));
  ChildLog log(file);
  std::vector<std::string> lines;
  const auto keep = [&](const std::string& line) { lines.push_back(line); };
  log.add("one\ntw", keep);
  log.add("o\n\nhalf", keep);
  EXPECT_THAT(lines, testing::ElementsAre("one", "two", ""));
  for (int i = 0; i < 100; ++i) log.add(std::to_string(i) + "\n", keep);
  EXPECT_EQ(log.last_lines().size(), ChildLog::kKeptLines);
  EXPECT_EQ(log.last_lines().back(), "99");
  std::string first;
  std::ifstream in(file);
  std::getline(in, first);
  EXPECT_EQ(first, "one");
  std::filesystem::remove(file);
}

TEST(ChildLog, TurnsItsFileOverAtTheLimit) {
  const auto file = std::filesystem::path(testing::TempDir()) / ("slipway-log-" + random_hex(64));
  ChildLog log(file);
  const std::string line = std::string(1 << 15, 'x') + "\n";
  for (std::uintmax_t bytes = 0; bytes < 2 * ChildLog::kMaxFileBytes; bytes += line.size()) {
    log.add(line, [](const std::string&) {});
  }
  EXPECT_LE(std::filesystem::file_size(file), ChildLog::kMaxFileBytes + line.size());
  EXPECT_LE(std::filesystem::file_size(file.string() + ".1"), ChildLog::kMaxFileBytes + line.size());
  std::filesystem::remove(file);
  std::filesystem::remove(file.string() + ".1");
}

}  // namespace
}  // namespace slipway::cli

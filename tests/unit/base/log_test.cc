#include "lib/base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <thread>

#include "lib/base/readings.h"

namespace slipway {
namespace {

TEST(Log, RefusesAFormatOrLevelItDoesNotKnow) {
  for (const auto& [format, level] : {std::pair{"xml", "info"}, std::pair{"text", "loud"}}) {
    const auto started = start_logging("test", format, level);
    ASSERT_FALSE(started) << format << level;
    EXPECT_EQ(started.error().code, Code::kInvalidArgument);
  }
  EXPECT_TRUE(start_logging("test", "json", "off"));
}

double lines_dropped() {
  for (const auto& value : Reading::all()) {
    if (value.name == "slipway_log_dropped_total") return value.value;
  }
  return 0;
}

// Standard error as a pipe, for as long as it lives.
class ErrorPipe {
 public:
  ErrorPipe() : usual_(::dup(STDERR_FILENO)) {
    EXPECT_EQ(::pipe2(ends_, O_CLOEXEC), 0);
    ::dup2(ends_[1], STDERR_FILENO);
  }
  ~ErrorPipe() {
    ::dup2(usual_, STDERR_FILENO);
    for (const int end : {usual_, ends_[0], ends_[1]}) ::close(end);
  }
  // What was written until now.
  std::string read_all() {
    ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
    std::string text;
    char buffer[65536];
    for (ssize_t got = 0; (got = ::read(ends_[0], buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  int usual_;
  int ends_[2] = {-1, -1};
};

TEST(Log, HasWrittenWhatWasLoggedOnceItIsFlushed) {
  ErrorPipe pipe;
  ASSERT_TRUE(start_logging("test", "text", "info"));
  spdlog::info("the last line number={}", 1);
  flush_logging();
  EXPECT_NE(pipe.read_all().find("test the last line number=1\n"), std::string::npos);
}

// Whoever reads the log may stall; heartbeats and requests must not.
TEST(Log, HoldsNobodyUpWhenItIsNotRead) {
  const auto before = lines_dropped();
  std::string text;
  {
    ErrorPipe pipe;
    ASSERT_TRUE(start_logging("test", "text", "info"));
    for (std::size_t i = 0; i < 12 * kMaxLogLines; ++i) spdlog::info("line number={} {}", i, std::string(100, 'x'));
    flush_logging(std::chrono::milliseconds(1));  // does not hold up either
    EXPECT_GE(lines_dropped() - before, kMaxLogLines);
    std::atomic<bool> done = false;
    std::jthread reader([&] {
      while (!done) text += pipe.read_all();
    });
    flush_logging(std::chrono::seconds(20));
    spdlog::info("the end");
    flush_logging(std::chrono::seconds(20));
    done = true;
    reader.join();
    text += pipe.read_all();
  }
  EXPECT_NE(text.find(std::format("line number={} ", 12 * kMaxLogLines - 1)), std::string::npos)
      << "the newest are kept";
  EXPECT_NE(text.find("the end"), std::string::npos);
}

TEST(Log, QuotesAValueOnlyWhenItMust) {
  EXPECT_EQ(log_value("fashion-mnist"), "fashion-mnist");
  EXPECT_EQ(log_value("two words"), R"("two words")");
  EXPECT_EQ(log_value("a=b"), R"("a=b")");
  EXPECT_EQ(log_value("line\nbreak \"x\""), R"("line\nbreak \"x\"")");
  EXPECT_EQ(log_value(""), R"("")");
}

TEST(Log, WritesUtf8OfAnyLengthWhateverAStrangerSends) {
  EXPECT_EQ(log_value("\xff\xfe"), "??");
  EXPECT_EQ(log_value("gr\u00fcn\xc3"), "gr\u00fcn?");
  EXPECT_EQ(log_value(std::string(8'192, 'x')), std::string(8'192, 'x'));
  EXPECT_EQ(log_value(std::string(8'193, 'x')), std::string(8'192, 'x') + "...");
  EXPECT_EQ(log_value(std::string(16 << 20, '\xff')), std::string(8'192, '?') + "...");
  ErrorPipe pipe;
  ASSERT_TRUE(start_logging("test", "json", "info"));
  spdlog::info("as it came: \xff\xc3");
  flush_logging();
  const std::string line = pipe.read_all();
  boost::system::error_code error;
  const auto document = boost::json::parse(line, error);
  ASSERT_FALSE(error) << line;
  EXPECT_EQ(document.at("message"), "as it came: ??");
}

}  // namespace
}  // namespace slipway

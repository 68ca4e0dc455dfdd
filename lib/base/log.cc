#include "lib/base/log.h"

#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <atomic>
#include <boost/json.hpp>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "lib/base/readings.h"
#include "lib/base/utf8.h"

namespace slipway {
namespace {

constexpr std::size_t kMaxValueBytes = 8'192;

// `text` with '?' for what is no UTF-8, which JSON is always; of a longer one the beginning and "...".
std::string as_utf8(std::string_view text, std::size_t max_bytes) {
  std::string clean;
  while (!text.empty()) {
    const auto character = take_character(text);
    const std::string_view piece = character.valid ? character.bytes : "?";
    if (clean.size() + piece.size() > max_bytes) return clean + "...";
    clean += piece;
  }
  return clean;
}

// The message as one JSON string, so that a JSON log line stays JSON whatever it says.
class JsonMessageFlag : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string_view payload(message.payload.data(), message.payload.size());
    const std::string text = boost::json::serialize(boost::json::string(as_utf8(payload, payload.size())));
    out.append(text.data(), text.data() + text.size());
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessageFlag>();
  }
};

// Takes no lines: it tells how far the logging thread has come.
class FlushMark : public spdlog::sinks::sink {
 public:
  void log(const spdlog::details::log_msg&) override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}
  void flush() override {
    const std::lock_guard lock(mutex_);
    ++passed_;
    changed_.notify_all();
  }
  void wait_for(std::uint64_t count, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return passed_ >= count; });
  }
  std::uint64_t next() { return ++asked_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t passed_ = 0;
  std::atomic<std::uint64_t> asked_{0};
};

// Never destroyed: at exit it would wait for a log that nobody reads.
struct Writer {
  std::shared_ptr<spdlog::details::thread_pool> thread =
      std::make_shared<spdlog::details::thread_pool>(kMaxLogLines, 1);
  std::shared_ptr<FlushMark> mark = std::make_shared<FlushMark>();
  Reading dropped{"slipway_log_dropped_total", "Log lines lost because the log was not read in time.",
                  [this] { return std::uint64_t{thread->overrun_counter()}; }};
};
std::atomic<Writer*> writer = nullptr;

Writer& started_writer() {
  static Writer* const started = [] {
    (void)spdlog::default_logger();  // made before the handler, so that it is still there when that runs
    writer = new Writer;
    std::atexit([] { flush_logging(); });
    return writer.load();
  }();
  return *started;
}

}  // namespace

Result<void> start_logging(const std::string& service, const std::string& format, const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    return fail(Code::kInvalidArgument,
                std::format("log level '{}': wanted trace, debug, info, warning, error or off", level));
  }
  if (format != "text" && format != "json") {
    return fail(Code::kInvalidArgument, std::format("log format '{}': wanted text or json", format));
  }
  Writer& to = started_writer();
  auto logger = std::make_shared<spdlog::async_logger>(
      service, spdlog::sinks_init_list{std::make_shared<spdlog::sinks::stderr_color_sink_mt>(), to.mark}, to.thread,
      spdlog::async_overflow_policy::overrun_oldest);
  if (format == "json") {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<JsonMessageFlag>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","service":"%n","message":%*})");
    logger->set_formatter(std::move(formatter));
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%-7l%$ %n %v");
  }
  logger->set_level(parsed);
  spdlog::set_default_logger(std::move(logger));  // standard error has no buffer of its own to flush
  return {};
}

void flush_logging(std::chrono::milliseconds patience) {
  Writer* const to = writer;
  if (to == nullptr) return;
  spdlog::default_logger()->flush();
  to->mark->wait_for(to->mark->next(), patience);
}

std::string log_value(std::string_view text) {
  const std::string clean = as_utf8(text, kMaxValueBytes);
  const bool plain = !clean.empty() && std::ranges::none_of(clean, [](unsigned char c) {
    return c <= ' ' || c == '"' || c == '=' || c == 0x7f;
  });
  return plain ? clean : boost::json::serialize(boost::json::string(clean));
}

}  // namespace slipway

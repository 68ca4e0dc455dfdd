// Shows each line of the log, while it is there, to the test. What the test throws is thrown where the line was logged.
#pragma once

#include <spdlog/sinks/sink.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace slipway {

// `see` is called in the thread that logs. `level`: of the lines that are there at all.
class WatchedLog {
 public:
  explicit WatchedLog(std::function<void(const std::string& line)> see,
                      spdlog::level::level_enum level = spdlog::level::info) {
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<Sink>(std::move(see)));
    logger->set_level(level);
    logger->set_error_handler([](const std::string& why) { throw std::runtime_error(why); });
    spdlog::set_default_logger(std::move(logger));
  }
  ~WatchedLog() { spdlog::set_default_logger(usual_); }
  WatchedLog(const WatchedLog&) = delete;
  WatchedLog& operator=(const WatchedLog&) = delete;

 private:
  class Sink : public spdlog::sinks::sink {
   public:
    explicit Sink(std::function<void(const std::string&)> see) : see_(std::move(see)) {}
    void log(const spdlog::details::log_msg& message) override {
      see_(std::string(message.payload.data(), message.payload.size()));
    }
    void flush() override {}
    void set_pattern(const std::string&) override {}
    void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

   private:
    const std::function<void(const std::string&)> see_;
  };

  const std::shared_ptr<spdlog::logger> usual_ = spdlog::default_logger();
};

}  // namespace slipway

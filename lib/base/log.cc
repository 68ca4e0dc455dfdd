#include "lib/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <boost/json.hpp>

namespace slipway {
namespace {

// The message as one JSON string, so that a JSON log line stays JSON whatever it says.
class JsonMessageFlag : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string text =
        boost::json::serialize(boost::json::string(message.payload.data(), message.payload.size()));
    out.append(text.data(), text.data() + text.size());
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessageFlag>();
  }
};

}  // namespace

Result<void> start_logging(const std::string& service, const std::string& format, const std::string& level) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    return fail(Code::kInvalidArgument,
                std::format("log level '{}': wanted trace, debug, info, warning, error or off", level));
  }
  auto logger = std::make_shared<spdlog::logger>(service, std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  if (format == "json") {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<JsonMessageFlag>('*').set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","service":"%n","message":%*})");
    logger->set_formatter(std::move(formatter));
  } else if (format == "text") {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%-7l%$ %n %v");
  } else {
    return fail(Code::kInvalidArgument, std::format("log format '{}': wanted text or json", format));
  }
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

std::string log_value(std::string_view text) {
  const bool plain = !text.empty() && std::ranges::none_of(text, [](unsigned char c) {
    return c <= ' ' || c == '"' || c == '=' || c == 0x7f;
  });
  return plain ? std::string(text) : boost::json::serialize(boost::json::string(text));
}

}  // namespace slipway

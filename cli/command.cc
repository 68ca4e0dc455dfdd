#include "cli/command.h"

#include <signal.h>

#include <chrono>
#include <format>
#include <fstream>
#include <iostream>
#include <print>
#include <sstream>

#include "cli/json_read.h"
#include "cli/text.h"
#include "lib/base/json_text.h"

namespace slipway::cli {

std::atomic<bool>& Session::interrupted() {
  static std::atomic<bool> flag{false};
  return flag;
}

void Session::catch_interrupt() {
  interrupted();  // made before a signal can come
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted() = true; };
  sigaction(SIGINT, &action, nullptr);
}

void print_json(const boost::json::value& value) { std::println("{}", json_text(value)); }

Outcome<std::string> read_text_file(const std::string& file) {
  std::ifstream opened;
  if (file != "-") opened.open(file, std::ios::binary);
  std::istream& in = file == "-" ? std::cin : opened;
  std::stringstream text;
  if (in) text << in.rdbuf();
  if (!in) return give_up(Exit::kUsage, std::format("cannot read {}", file));
  return text.str();
}

Outcome<boost::json::value> parse_json(std::string_view text, const std::string& what) {
  boost::system::error_code error;
  boost::json::parse_options options;
  options.numbers = boost::json::number_precision::precise;
  boost::json::value value = boost::json::parse(text, error, {}, options);
  if (error) return give_up(Exit::kUsage, std::format("{} is not JSON: {}", what, error.message()));
  return value;
}

TransferProgress transfer_bar(StatusLine& line, std::string what) {
  using Clock = std::chrono::steady_clock;
  return [&line, what = std::move(what), start = Clock::now(), shown = Clock::time_point()](
             std::uint64_t done, std::uint64_t total) mutable {
    const auto now = Clock::now();
    if (now - shown < std::chrono::milliseconds(100) || done == 0) return;
    shown = now;
    line.show(transfer_line(what, done, total, std::chrono::duration<double>(now - start).count(), line.width()));
  };
}

std::string metrics_text(const boost::json::value& metrics) {
  std::string text;
  if (!metrics.is_object()) return text;
  for (const auto& [name, value] : metrics.get_object()) {
    if (!text.empty()) text += "  ";
    text += std::format("{} {}", printable(name), humane_number(number_of(value)));
  }
  return text;
}

}  // namespace slipway::cli

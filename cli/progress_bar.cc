#include "cli/progress_bar.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <format>
#include <print>

#include "cli/text.h"

namespace slipway::cli {
namespace {

std::string metrics_text(const TrainProgress& progress, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < std::min(count, progress.metrics.size()); ++i) {
    const auto& [name, value] = progress.metrics[i];
    text += std::format("  {} {}", printable(name), humane_number(value));
  }
  return text;
}

double fraction_of(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

std::string bar(double fraction, int width) {
  if (!(fraction > 0)) fraction = 0;  // NaN too
  const int halves = static_cast<int>(std::floor(std::min(fraction, 1.0) * width * 2));
  std::string text;
  for (int i = 0; i < halves / 2; ++i) text += "━";
  if (halves % 2 == 1) text += "╸";
  text.append(static_cast<std::size_t>(width - (halves + 1) / 2), ' ');
  return text;
}

std::string training_line(const TrainProgress& progress, int width) {
  const double fraction = fraction_of(static_cast<double>(progress.step), static_cast<double>(progress.steps));
  const std::string left =
      progress.seconds_left < 0
          ? ""
          : std::format("  {} left", humane_duration(std::chrono::duration<double>(progress.seconds_left)));
  const std::string rate =
      progress.rows_per_second > 0 ? std::format("  {} rows/s", humane_rate(progress.rows_per_second)) : "";
  const std::string head = std::format("epoch {}/{} ", progress.epoch, progress.epochs);
  const std::string percent = std::format(" {:3.0f}%", 100 * std::clamp(fraction, 0.0, 1.0));

  const auto line = [&](int bar_width, std::size_t metrics, bool with_rate) {
    return head + bar(fraction, bar_width) + percent + metrics_text(progress, metrics) + (with_rate ? rate : "") + left;
  };
  const auto fits = [&](const std::string& text) { return display_width(text) <= static_cast<std::size_t>(width); };
  std::string text = line(24, progress.metrics.size(), true);
  if (fits(text)) return text;
  text = line(12, progress.metrics.size(), true);
  for (std::size_t metrics = progress.metrics.size(); !fits(text); --metrics) {
    text = line(12, metrics, false);
    if (metrics == 0) break;
  }
  if (!fits(text)) text = (head + percent).substr(0, static_cast<std::size_t>(std::max(0, width)));
  return text;
}

std::string epoch_line(const TrainProgress& progress) {
  std::string text = std::format("epoch {}/{}", progress.epoch, progress.epochs);
  text += metrics_text(progress, progress.metrics.size());
  // With a callback that turns it, the rate is among the metrics, as in Keras' logs.
  const bool shown =
      std::ranges::any_of(progress.metrics, [](const auto& metric) { return metric.first == "learning_rate"; });
  if (!shown && progress.learning_rate > 0) text += std::format("  lr {:.4g}", progress.learning_rate);
  if (progress.rows_per_second > 0) text += std::format("  {} rows/s", humane_rate(progress.rows_per_second));
  return text;
}

std::string transfer_line(const std::string& what, std::uint64_t done_bytes, std::uint64_t total_bytes, double seconds,
                          int width) {
  const double fraction = fraction_of(static_cast<double>(done_bytes), static_cast<double>(total_bytes));
  const std::string amount = total_bytes > 0
                                 ? std::format("{} of {}", humane_bytes(done_bytes), humane_bytes(total_bytes))
                                 : humane_bytes(done_bytes);
  std::string text =
      std::format("{} {} {:3.0f}%  {}", what, bar(fraction, 24), 100 * std::clamp(fraction, 0.0, 1.0), amount);
  if (seconds > 0.2) {
    text += std::format("  {}/s", humane_bytes(static_cast<std::uint64_t>(static_cast<double>(done_bytes) / seconds)));
  }
  if (display_width(text) > static_cast<std::size_t>(width)) text = amount;
  return text;
}

StatusLine::StatusLine() {
  const char* term = std::getenv("TERM");
  terminal_ = isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

int StatusLine::width() const {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col - 1;
  return 79;
}

void StatusLine::show(const std::string& line) {
  if (!terminal_) return;
  std::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
  shown_ = true;
}

void StatusLine::clear() {
  if (!shown_) return;
  std::print(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

void StatusLine::print(const std::string& line) {
  clear();
  std::println(stderr, "{}", line);
}

}  // namespace slipway::cli

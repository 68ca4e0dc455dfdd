// One line that shows how far a training or an upload is. Rendering has no I/O; StatusLine writes it to the terminal.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace slipway::cli {

struct TrainProgress {
  std::uint32_t epoch = 0, epochs = 0;
  std::uint64_t step = 0, steps = 0;  // of this epoch
  double rows_per_second = 0;
  double seconds_left = -1;  // negative: not known yet
  double learning_rate = 0;
  std::vector<std::pair<std::string, double>> metrics;  // in the server's order
};

// "━━━━━━╸     ", `width` characters; `fraction` is clamped to 0..1.
[[nodiscard]] std::string bar(double fraction, int width);

// "epoch 3/5 ━━━━━╸      42%  loss 0.3211  accuracy 0.8842  41.2 k rows/s  9 s left", at most `width` columns: what
// does not fit is left out, the rate first, then metrics from the last one on.
[[nodiscard]] std::string training_line(const TrainProgress& progress, int width);

// The line that stays when an epoch is over: "epoch 3/5  loss 0.3211  accuracy 0.8842  val_loss 0.3502  41.2 k rows/s".
[[nodiscard]] std::string epoch_line(const TrainProgress& progress);

// "train-images.gz ━━━━╸   31%  8.1 MiB of 25.2 MiB  4.0 MiB/s".
[[nodiscard]] std::string transfer_line(const std::string& what, std::uint64_t done_bytes, std::uint64_t total_bytes,
                                        double seconds, int width);

// The last line of standard error, rewritten in place. Does nothing when that is not a terminal.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine() { clear(); }
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  [[nodiscard]] bool is_terminal() const { return terminal_; }
  [[nodiscard]] int width() const;
  void show(const std::string& line);
  void clear();
  // A line that stays, above the status line; also written when there is no terminal.
  void print(const std::string& line);

 private:
  bool terminal_ = false;
  bool shown_ = false;
};

}  // namespace slipway::cli

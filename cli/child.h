// A process that dies with this one and whose output comes back line by line.
#pragma once

#include <sys/types.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/error.h"

namespace slipway::cli {

// What a child writes, as lines: into a file that is turned over at 16 MiB (one older file is kept), and onwards.
class ChildLog {
 public:
  static constexpr std::uintmax_t kMaxFileBytes = 16 << 20;
  static constexpr std::size_t kKeptLines = 20;

  explicit ChildLog(std::filesystem::path file) : file_(std::move(file)) {}

  void add(std::string_view bytes, const std::function<void(const std::string& line)>& on_line);
  // The last lines, oldest first.
  [[nodiscard]] const std::deque<std::string>& last_lines() const { return last_lines_; }
  [[nodiscard]] const std::filesystem::path& file() const { return file_; }

 private:
  void write(const std::string& line);

  const std::filesystem::path file_;
  std::ofstream out_;
  std::uintmax_t size_bytes_ = 0;
  std::string partial_;
  std::deque<std::string> last_lines_;
};

// Life: the destructor kills (SIGKILL) and reaps what still runs. Threads: start it in the thread that lives longest,
// for the kernel ties the child to that thread.
class Child {
 public:
  Child() = default;
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Runs `command`; standard output and error go to output(), standard input is empty. The child leads a process group
  // of its own, so that a terminal's Ctrl-C is this process's to pass on in order, and gets SIGKILL when this one ends.
  // Errors: kInternal (no process or pipe to be had), kNotFound (the program cannot be executed).
  [[nodiscard]] Result<void> start(const std::vector<std::string>& command);

  [[nodiscard]] bool running() const { return pid_ > 0; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // Non-blocking; -1 once it is at its end.
  [[nodiscard]] int output() const { return output_; }
  // What there is to read now; closes output() at its end.
  [[nodiscard]] std::string read_output();
  void signal(int number) const;
  // Whether it has ended; reaps it. `how` becomes "exit code 1" or "signal 9 (Killed)".
  [[nodiscard]] bool reap(std::string& how);

 private:
  pid_t pid_ = 0;
  int output_ = -1;
};

}  // namespace slipway::cli

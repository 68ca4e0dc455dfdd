#include "cli/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <format>

namespace slipway::cli {

void ChildLog::add(std::string_view bytes, const std::function<void(const std::string& line)>& on_line) {
  static constexpr std::size_t kMaxLineBytes = 64 << 10;
  for (const char c : bytes) {
    if (c != '\n') partial_.push_back(c);
    if (c != '\n' && partial_.size() < kMaxLineBytes) continue;
    write(partial_);
    on_line(partial_);
    last_lines_.push_back(std::move(partial_));
    if (last_lines_.size() > kKeptLines) last_lines_.pop_front();
    partial_.clear();
  }
}

void ChildLog::write(const std::string& line) {
  if (!out_.is_open()) {
    std::error_code none_yet;
    const auto size = std::filesystem::file_size(file_, none_yet);
    size_bytes_ = none_yet ? 0 : size;
    out_.open(file_, std::ios::app);
  }
  if (size_bytes_ >= kMaxFileBytes) {
    out_.close();
    std::error_code ignored;  // the file then goes on growing, which is better than no log
    std::filesystem::rename(file_, file_.string() + ".1", ignored);
    out_.open(file_, std::ios::app);
    size_bytes_ = 0;
  }
  out_ << line << '\n' << std::flush;
  size_bytes_ += line.size() + 1;
}

Child::~Child() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
}

Result<void> Child::start(const std::vector<std::string>& command) {
  std::array<int, 2> output{}, failure{};
  if (pipe2(output.data(), O_CLOEXEC) != 0) {
    return fail(Code::kInternal, std::format("no pipe for {}: {}", command.front(), std::strerror(errno)));
  }
  if (pipe2(failure.data(), O_CLOEXEC) != 0) {
    close(output[0]);
    close(output[1]);
    return fail(Code::kInternal, std::format("no pipe for {}: {}", command.front(), std::strerror(errno)));
  }
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {  // only async-signal-safe calls from here on
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);  // it ended in between
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    for (const int number : {SIGPIPE, SIGINT, SIGTERM, SIGHUP}) ::signal(number, SIG_DFL);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    dup2(output[1], STDOUT_FILENO);
    dup2(output[1], STDERR_FILENO);
    execv(arguments.front(), arguments.data());
    const int error = errno;
    [[maybe_unused]] const auto written = ::write(failure[1], &error, sizeof error);
    _exit(127);
  }
  close(output[1]);
  close(failure[1]);
  if (pid < 0) {
    close(output[0]);
    close(failure[0]);
    return fail(Code::kInternal, std::format("no process for {}: {}", command.front(), std::strerror(errno)));
  }
  int error = 0;
  ssize_t got = 0;
  do got = read(failure[0], &error, sizeof error);  // ends when exec closes the pipe
  while (got < 0 && errno == EINTR);
  close(failure[0]);
  if (got == sizeof error) {
    waitpid(pid, nullptr, 0);
    close(output[0]);
    return fail(Code::kNotFound, std::format("cannot run {}: {}", command.front(), std::strerror(error)));
  }
  fcntl(output[0], F_SETFL, O_NONBLOCK);
  if (output_ >= 0) close(output_);
  output_ = output[0];
  pid_ = pid;
  return {};
}

std::string Child::read_output() {
  std::string bytes;
  std::array<char, 16384> buffer;
  while (output_ >= 0 && bytes.size() < (1 << 20)) {
    const ssize_t got = read(output_, buffer.data(), buffer.size());
    if (got > 0) {
      bytes.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      break;
    } else {
      close(output_);
      output_ = -1;
    }
  }
  return bytes;
}

void Child::signal(int number) const {
  if (pid_ > 0) kill(pid_, number);
}

bool Child::reap(std::string& how) {
  int status = 0;
  if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return false;
  how = WIFSIGNALED(status) ? std::format("signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)))
                            : std::format("exit code {}", WEXITSTATUS(status));
  pid_ = 0;
  return true;
}

}  // namespace slipway::cli

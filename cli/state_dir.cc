#include "cli/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <format>
#include <fstream>

#include "lib/base/random_id.h"

namespace slipway::cli {

std::filesystem::path default_state_dir() {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (const auto home = variable("SLIPWAY_HOME"); !home.empty()) return home;
  if (const auto data = variable("XDG_DATA_HOME"); !data.empty()) return std::filesystem::path(data) / "slipway";
  const auto home = variable("HOME");
  return std::filesystem::path(home.empty() ? "." : home) / ".local/share/slipway";
}

Result<StateDir> StateDir::open(const std::filesystem::path& path) {
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  if (!error) std::filesystem::create_directories(absolute, error);
  if (error) return fail(Code::kUnavailable, std::format("cannot make {}: {}", path.string(), error.message()));

  const auto lock_file = absolute / "up.lock";
  const int lock = ::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) {
    return fail(Code::kUnavailable, std::format("cannot write {}: {}", lock_file.string(), std::strerror(errno)));
  }
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    close(lock);
    std::string holder;
    std::getline(std::ifstream(lock_file), holder);
    return fail(Code::kConflict,
                std::format("{} is in use by another `slipway up`{}: stop that one, or give another --state-dir",
                            absolute.string(), holder.empty() ? "" : " (process " + holder + ")"));
  }
  const std::string pid = std::format("{}\n", getpid());
  if (ftruncate(lock, 0) != 0 || ::write(lock, pid.data(), pid.size()) != static_cast<ssize_t>(pid.size())) {
    const std::string why = std::strerror(errno);
    close(lock);
    return fail(Code::kUnavailable, std::format("cannot write {}: {}", lock_file.string(), why));
  }
  return StateDir(absolute, lock);
}

StateDir::~StateDir() {
  if (lock_ >= 0) close(lock_);
}

Result<std::filesystem::path> StateDir::folder(const std::string& name) const {
  std::error_code error;
  std::filesystem::create_directories(path_ / name, error);
  if (error)
    return fail(Code::kUnavailable, std::format("cannot make {}: {}", (path_ / name).string(), error.message()));
  return path_ / name;
}

Result<void> StateDir::write(const std::string& name, const std::string& text) const {
  const auto file = path_ / name, part = path_ / (name + ".part");
  {
    std::ofstream out(part, std::ios::trunc);
    out << text;
    if (!out.flush()) return fail(Code::kUnavailable, std::format("cannot write {}", part.string()));
  }
  std::error_code error;
  std::filesystem::rename(part, file, error);
  if (error) return fail(Code::kUnavailable, std::format("cannot write {}: {}", file.string(), error.message()));
  return {};
}

void StateDir::remove(const std::string& name) const {
  std::error_code ignored;  // it may not be there
  std::filesystem::remove(path_ / name, ignored);
}

Result<std::string> StateDir::secret() const {
  const auto file = path_ / "secret", part = path_ / "secret.part";
  std::string secret;
  if (std::ifstream in(file); std::getline(in, secret) && !secret.empty()) {
    // A copy of the folder may have lost it.
    if (chmod(file.c_str(), 0600) == 0) return secret;
    return fail(Code::kUnavailable,
                std::format("cannot keep {} to its owner: {}", file.string(), std::strerror(errno)));
  }
  secret = random_hex(256);
  std::error_code none;
  std::filesystem::remove(part, none);
  const std::string line = secret + "\n";
  const int out = ::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool written = out >= 0 && ::write(out, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  if (out >= 0) close(out);
  if (!written)
    return fail(Code::kUnavailable, std::format("cannot write {}: {}", part.string(), std::strerror(error)));
  std::error_code failed;
  std::filesystem::rename(part, file, failed);
  if (failed) return fail(Code::kUnavailable, std::format("cannot write {}: {}", file.string(), failed.message()));
  return secret;
}

}  // namespace slipway::cli

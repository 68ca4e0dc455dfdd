// A real control group for a test, where the machine lets one be made.
#pragma once

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <format>
#include <fstream>
#include <map>
#include <string>
#include <type_traits>

#include "lib/base/random_id.h"

namespace slipway {

// One of version 1, at the top of the hierarchies of `cpu` and `memory`. They are mounted for a moment and then reached
// through a descriptor only, so that no mount stays whatever becomes of the test.
class OwnCgroup {
 public:
  OwnCgroup() {
    for (const char* controller : {"cpu", "memory"}) {
      if (missing_.empty()) make(controller);
    }
  }
  ~OwnCgroup() {
    for (const auto& [controller, top] : tops_) {
      ::unlinkat(top, name_.c_str(), AT_REMOVEDIR);
      ::close(top);
    }
  }
  OwnCgroup(const OwnCgroup&) = delete;
  OwnCgroup& operator=(const OwnCgroup&) = delete;

  // Why there is none; empty: there is.
  [[nodiscard]] const std::string& missing() const { return missing_; }

  void set_memory(std::uint64_t bytes) const { write("memory", "memory.limit_in_bytes", std::to_string(bytes)); }
  void set_quota(int quota_us, int period_us) const {
    write("cpu", "cpu.cfs_period_us", std::to_string(period_us));
    write("cpu", "cpu.cfs_quota_us", std::to_string(quota_us));
  }

  // What `work` returns in a child process that is in the group.
  template <class Work>
  [[nodiscard]] auto run(Work work) const {
    using Answer = decltype(work());
    static_assert(std::is_trivially_copyable_v<Answer>);
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (const auto& [controller, top] : tops_) write(controller, "cgroup.procs", std::to_string(::getpid()));
      const Answer answer = work();
      ::_exit(::write(ends[1], &answer, sizeof answer) == sizeof answer ? 0 : 1);
    }
    ::close(ends[1]);
    Answer answer{};
    EXPECT_EQ(::read(ends[0], &answer, sizeof answer), static_cast<ssize_t>(sizeof answer));
    ::close(ends[0]);
    ::waitpid(child, nullptr, 0);
    return answer;
  }

 private:
  void make(const std::string& controller) {
    std::string point = std::filesystem::temp_directory_path() / "slipway-cgroup-XXXXXX";
    if (::mkdtemp(point.data()) == nullptr) return give_up("mkdtemp");
    if (::mount("none", point.c_str(), "cgroup", 0, controller.c_str()) == 0) {
      const int top = tops_[controller] = ::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      ::umount2(point.c_str(), MNT_DETACH);
      if (::mkdirat(top, name_.c_str(), 0755) != 0) give_up("making a group of " + controller);
    } else {
      give_up(std::format("mounting the cgroup hierarchy of {} (version 1)", controller));
    }
    std::filesystem::remove(point);
  }

  void give_up(const std::string& what) { missing_ = std::format("{}: {}", what, std::strerror(errno)); }

  void write(const std::string& controller, const std::string& file, const std::string& text) const {
    std::ofstream(std::format("/proc/self/fd/{}/{}/{}", tops_.at(controller), name_, file)) << text << std::flush;
  }

  const std::string name_ = "slipway-test-" + random_hex(64);
  std::map<std::string, int> tops_;  // folders of the hierarchies' tops
  std::string missing_;
};

}  // namespace slipway

// The folder in which one installation under `slipway up` lives; at most one process uses it at a time.
#pragma once

#include <filesystem>
#include <string>

#include "lib/base/error.h"

namespace slipway::cli {

// $SLIPWAY_HOME, else $XDG_DATA_HOME/slipway, else ~/.local/share/slipway.
[[nodiscard]] std::filesystem::path default_state_dir();

// Life: the lock is held until destruction; the kernel frees it when the process ends in whatever way.
class StateDir {
 public:
  // Makes the folder when it is missing, and locks it.
  // Errors: kConflict (another `slipway up` has it), kUnavailable (it cannot be made or written).
  [[nodiscard]] static Result<StateDir> open(const std::filesystem::path& path);
  ~StateDir();
  StateDir(StateDir&& other) noexcept : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}
  StateDir& operator=(StateDir&&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // The folder `name` in it, made when it is missing.
  [[nodiscard]] Result<std::filesystem::path> folder(const std::string& name) const;
  // Replaces the file `name`: a reader sees the old text or the new, whole. Errors: kUnavailable.
  [[nodiscard]] Result<void> write(const std::string& name, const std::string& text) const;
  void remove(const std::string& name) const;
  // What the services of this installation know each other by: in the file `secret`, which only its owner may read;
  // made when it is missing. Errors: kUnavailable.
  [[nodiscard]] Result<std::string> secret() const;

 private:
  StateDir(std::filesystem::path path, int lock) : path_(std::move(path)), lock_(lock) {}

  std::filesystem::path path_;
  int lock_;
};

}  // namespace slipway::cli

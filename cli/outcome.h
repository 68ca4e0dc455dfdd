// How a command ends: the exit codes that scripts may rely on, and a failure with its message.
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace slipway::cli {

enum class Exit : int {
  kOk = 0,
  kRefused = 1,      // the server refused, the job failed, or a service could not run
  kUsage = 2,        // a wrong command line, or a local file that cannot be used
  kUnreachable = 3,  // no answer from the server
  kCancelled = 4,    // the job was cancelled
};

struct Failure {
  Exit exit = Exit::kRefused;
  std::string message;
};

template <class T>
using Outcome = std::expected<T, Failure>;

[[nodiscard]] inline std::unexpected<Failure> give_up(Exit exit, std::string message) {
  return std::unexpected(Failure{.exit = exit, .message = std::move(message)});
}

}  // namespace slipway::cli

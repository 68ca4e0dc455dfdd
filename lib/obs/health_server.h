// /metrics, /healthz, /readyz and, of some, /autoscaling of a process on a port of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "lib/base/error.h"

namespace slipway::obs {

// Why a process is not ready; empty: it is.
using Readiness = std::function<std::string()>;

// What /autoscaling shows, for autoscalers that read JSON: {"jobs": {"outstanding": 3}} is {{"jobs", {{"outstanding",
// 3}}}}.
using Signals = std::function<std::map<std::string, std::map<std::string, std::int64_t>>()>;

class HealthServer {
 public:
  // Port 0 takes any free one. `ready` and `signals` are called from the server's own threads. One that throws, like
  // a reading that does, is answered with 500. Without `signals` there is no /autoscaling.
  // Errors: kUnavailable (the port cannot be bound).
  [[nodiscard]] static Result<std::unique_ptr<HealthServer>> start(const std::string& address, int port,
                                                                   Readiness ready, Signals signals = {});
  ~HealthServer();
  [[nodiscard]] int port() const;

 private:
  struct Impl;
  explicit HealthServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipway::obs

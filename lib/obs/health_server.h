// /metrics, /healthz and /readyz of a process on a port of their own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "lib/base/error.h"

namespace slipway::obs {

// Why a process is not ready; empty: it is.
using Readiness = std::function<std::string()>;

class HealthServer {
 public:
  // Port 0 takes any free one. `ready` is called from the server's own threads. One that throws, like a
  // reading that does, is answered with 500.
  // Errors: kUnavailable (the port cannot be bound).
  [[nodiscard]] static Result<std::unique_ptr<HealthServer>> start(const std::string& address, int port,
                                                                   Readiness ready);
  ~HealthServer();
  [[nodiscard]] int port() const;

 private:
  struct Impl;
  explicit HealthServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipway::obs

// The gateway's limits and time-outs, as flags set them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "schema/limits.h"

namespace slipway::gateway {

struct Settings {
  int http_port = 8080;
  int bus_port = 7070;
  std::string registry = "127.0.0.1:7071";
  std::string registry_events = "127.0.0.1:7072";
  std::uint64_t max_body_bytes = 64ULL << 20;     // JSON bodies, held in memory
  std::uint64_t max_buffered_bytes = 1ULL << 30;  // all of those and of answers at once
  std::uint64_t max_upload_bytes = 64ULL << 30;   // streamed bodies
  int http_threads = 0;                           // 0: one per core, at most 4
  int max_connections = 4096;
  std::int64_t header_timeout_ms = 10'000;  // from the first byte of a request to the end of its header
  std::int64_t idle_timeout_ms = 60'000;    // between two requests of a connection
  std::int64_t body_grace_ms = 10'000;      // a body may fall this far behind 8 KiB/s
  std::int64_t write_timeout_ms = 30'000;   // for each 256 KiB of an answer
  std::int64_t predict_deadline_ms = 30'000;
  std::int64_t registry_deadline_ms = 10'000;
  std::int64_t load_deadline_ms = 50'000;  // for all inferencers to load a model: Triton's clients wait a minute
  std::uint64_t max_tensor_bytes = kMaxMessageBytes;  // inputs of a prediction, and its outputs, in all
  std::vector<std::string> allowed_hosts;             // that requests may name, beside loopback ones
  std::vector<std::string> allowed_origins;  // web pages of other hosts that may use the API, "https://host[:port]"
  std::int64_t max_queued_requests = 1024;   // predictions waiting for an inferencer's credit
  bool nonfinite_inputs = false;  // take NaN and Infinity as bare tokens, as TensorFlow Serving and Triton do
  double drain_seconds = 20;
  std::int64_t drain_grace_ms = 0;        // still accepting after readiness went false
  double ready_alone_after_seconds = -1;  // since the start; negative: not ready without an inferencer

  [[nodiscard]] std::chrono::milliseconds header_timeout() const {
    return std::chrono::milliseconds(header_timeout_ms);
  }
  [[nodiscard]] std::chrono::milliseconds idle_timeout() const { return std::chrono::milliseconds(idle_timeout_ms); }
  [[nodiscard]] std::chrono::milliseconds write_timeout() const { return std::chrono::milliseconds(write_timeout_ms); }
};

}  // namespace slipway::gateway

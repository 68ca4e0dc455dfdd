// Accepts client connections and spreads them over the HTTP threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "lib/base/error.h"
#include "services/gateway/route_table.h"
#include "services/gateway/settings.h"

namespace slipway::gateway {

// How many connections `descriptors` leave room for beside what else the gateway opens: `wanted`, or fewer.
[[nodiscard]] int connection_limit(int wanted, std::uint64_t descriptors);

// At its limit of connections it closes the one that has waited longest for a next request to admit another; when none
// waits, the new one is answered 503. Life: `settings` and `routes` must outlive it; destruction aborts what is open.
// Threads: any.
class HttpServer {
 public:
  // Port 0 takes any free one. Errors: kInvalidArgument (not an address), kUnavailable (cannot be bound).
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> start(const std::string& address, int port,
                                                                 const Settings& settings, const RouteTable& routes);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  [[nodiscard]] int port() const;

  // Goes on accepting, but each answer says `Connection: close` and ends its connection, so that clients are elsewhere
  // before drain().
  void leave();

  // Another limit of the requests and answers in memory than the settings' one.
  void set_max_buffered_bytes(std::uint64_t bytes);

  // Accepts no more, closes connections that wait for a next request, and gives the others until `deadline` to finish.
  // True: all did.
  bool drain(std::chrono::milliseconds deadline);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace slipway::gateway

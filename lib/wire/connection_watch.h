// Notices that a socket's connection has ended. Private to this room.
#pragma once

#include <string>
#include <zmq.hpp>

namespace slipway {

// Life: made before the socket connects, gone before it is closed. Threads: not thread-safe, the bus thread's.
class ConnectionWatch {
 public:
  // `name`: unlike any other in the context. Throws zmq::error_t.
  ConnectionWatch(zmq::context_t& context, zmq::socket_t& watched, const std::string& name);
  ~ConnectionWatch();
  ConnectionWatch(const ConnectionWatch&) = delete;
  ConnectionWatch& operator=(const ConnectionWatch&) = delete;

  // For a poll: readable when there is something to take.
  [[nodiscard]] void* handle() { return events_.handle(); }

  // Whether a connection has ended since this was last asked.
  [[nodiscard]] bool take_ended();

 private:
  void* const watched_;
  zmq::socket_t events_;
};

}  // namespace slipway

#include "lib/wire/connection_watch.h"

#include <cstdint>
#include <cstring>

#include "lib/wire/zmq_frame.h"

namespace slipway {

ConnectionWatch::ConnectionWatch(zmq::context_t& context, zmq::socket_t& watched, const std::string& name)
    : watched_(watched.handle()), events_(context, zmq::socket_type::pair) {
  const std::string endpoint = "inproc://" + name;
  // libzmq's thread waits until there is room for an event, so there always is.
  events_.set(zmq::sockopt::rcvhwm, 0);
  events_.set(zmq::sockopt::linger, 0);
  if (zmq_socket_monitor(watched_, endpoint.c_str(), ZMQ_EVENT_DISCONNECTED) != 0) throw zmq::error_t();
  try {
    events_.connect(endpoint);
  } catch (...) {
    zmq_socket_monitor(watched_, nullptr, 0);
    throw;
  }
}

// In this order: libzmq's thread would wait for ever for the reader of an event.
ConnectionWatch::~ConnectionWatch() { zmq_socket_monitor(watched_, nullptr, 0); }

bool ConnectionWatch::take_ended() {
  bool ended = false;
  zmq::message_t part;
  while (uninterrupted([&] { return events_.recv(part, zmq::recv_flags::dontwait).has_value(); })) {
    std::uint16_t event = 0;  // the first of two frames begins with it, the second is an address
    if (!part.more() || part.size() < sizeof event) continue;
    std::memcpy(&event, part.data(), sizeof event);
    ended = ended || event == ZMQ_EVENT_DISCONNECTED;
  }
  return ended;
}

}  // namespace slipway

// Frames as libzmq's messages and back. Private to this room.
#pragma once

#include <cerrno>
#include <zmq.hpp>

#include "lib/wire/frame.h"

namespace slipway {

// Shares the frame's owner, which libzmq's thread lets go of; small frames are copied.
[[nodiscard]] zmq::message_t to_zmq(const Frame& frame);

// Owns the message; small ones are copied.
[[nodiscard]] Frame from_zmq(zmq::message_t message);

// Repeats what a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  for (;;) {
    try {
      return call();
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) throw;
    }
  }
}

}  // namespace slipway

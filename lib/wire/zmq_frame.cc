#include "lib/wire/zmq_frame.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace slipway {
namespace {

constexpr std::size_t kCopyBelow = 1024;  // smaller frames are copied: cheaper than sharing the owner

// libzmq hands messages to its own thread through queues that the thread sanitizer does not see into: told here.
#ifdef __SANITIZE_THREAD__
void hand_over(void* owner) { __tsan_release(owner); }
void take_over(void* owner) { __tsan_acquire(owner); }
#else
void hand_over(void*) {}
void take_over(void*) {}
#endif

}  // namespace

zmq::message_t to_zmq(const Frame& frame) {
  if (frame.size() <= kCopyBelow) return zmq::message_t(frame.data(), frame.size());
  auto* owner = new std::shared_ptr<const void>(frame.owner());
  hand_over(owner);
  return zmq::message_t(
      const_cast<std::byte*>(frame.data()), frame.size(),
      [](void*, void* hint) {
        take_over(hint);
        delete static_cast<std::shared_ptr<const void>*>(hint);
      },
      owner);
}

Frame from_zmq(zmq::message_t message) {
  // A small frame pins libzmq's whole 8 KiB read buffer and starts at any address: copy it into its own memory.
  if (message.size() < 8192) {
    return Frame::copy(std::span(static_cast<const std::byte*>(message.data()), message.size()));
  }
  auto owner = std::make_shared<zmq::message_t>(std::move(message));
  return Frame({static_cast<const std::byte*>(owner->data()), owner->size()}, owner);
}

}  // namespace slipway

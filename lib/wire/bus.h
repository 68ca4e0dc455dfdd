// All ZeroMQ sockets of a process, and the one thread that owns them from creation to close.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/codec.h"

namespace slipway {

// One socket of a bus.
enum class SocketId : std::uint32_t {};

// A message that came in. `peer` is the sender's routing id on a router, empty elsewhere.
struct Incoming {
  SocketId socket{};
  std::string peer;
  Message message;
};

// Life: sockets may be added and closed at any time from any thread; stop() (or destruction) ends the thread and drops
// what is still queued. Threads: everything may be called from any thread; handlers and posted work run on the bus
// thread, one at a time, and must not block. A frame that does not decode is answered with an Error (router) or
// dropped, counted and logged; it never reaches a handler.
class Bus {
 public:
  using Handler = std::function<void(Incoming)>;
  using Tick = std::function<void(std::chrono::steady_clock::time_point now)>;
  using Unreachable = std::function<void(const std::string& peer)>;

  struct Limits {
    std::size_t max_queued_messages = 100'000;  // per bus, waiting to be sent
    // For a dealer that is not connected, or for one peer of a router that does not read.
    std::size_t max_waiting_messages = 10'000;
    std::size_t max_waiting_bytes = 64 << 20;
    std::int64_t max_frame_bytes = 16 << 20;
    std::size_t max_frames = 64;
  };

  Bus();
  explicit Bus(Limits limits);
  ~Bus();
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // `address` is "host:port" with a literal host; port 0 takes any free one. `port()` tells which.
  // `unreachable` is told, on the bus thread, about each message that found its peer's connection gone.
  // Errors: kInvalidArgument (not an address), kUnavailable (cannot be bound).
  [[nodiscard]] Result<SocketId> bind_router(const std::string& address, Handler handler,
                                             Unreachable unreachable = nullptr);
  [[nodiscard]] Result<SocketId> bind_publisher(const std::string& address);
  [[nodiscard]] int port(SocketId socket) const;

  // `address` is "host:port". The connection is made, and made again, in the background; a name is looked up each time.
  [[nodiscard]] Result<SocketId> connect_dealer(const std::string& address, Handler handler);
  [[nodiscard]] Result<SocketId> connect_subscriber(const std::string& address, Handler handler);
  void close(SocketId socket);

  // Sends a message, or keeps it until there is room; `peer` is needed on a router only. `deadline_ms` is counted down
  // while a message waits, and one whose deadline passes is dropped: nobody waits for its answer any more.
  // On the bus thread the result is what became of the message; elsewhere it is only what can be known at once (too
  // large, the queue full), and the rest is counted and told to `unreachable`. A failed message is dropped.
  // Errors: kTooLarge (over the limits of both ends), kOverloaded (a queue is full: the bus's, or what waits for this
  // peer), kUnavailable (the peer has gone, the socket is closed).
  Result<void> send(SocketId socket, const std::string& peer, Message message);
  Result<void> send(SocketId socket, Message message) { return send(socket, {}, std::move(message)); }

  // The same for an answer: one that is too large is replaced by its error, under the same correlation, so that the
  // asker hears of it. The result is that of `message`.
  Result<void> answer(SocketId socket, const std::string& peer, Message message);

  // Runs `work` on the bus thread soon.
  void post(std::function<void()> work);

  // Runs `tick` on the bus thread about every 50 ms.
  void on_tick(Tick tick);

  // True in handlers, ticks and posted work.
  [[nodiscard]] bool on_bus_thread() const;

  // Frames that did not decode, and sends that found no peer or no room, since the start.
  [[nodiscard]] std::uint64_t malformed_total() const;
  [[nodiscard]] std::uint64_t undelivered_total() const;

  // Sends what is queued for at most `linger`, then ends the thread. Idempotent.
  void stop(std::chrono::milliseconds linger = std::chrono::milliseconds(0));

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slipway

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
  // What was sent under this correlation came in a protocol that the peer does not read, and was not looked at: sent
  // again it will be in one that both do. The message is an Error that says so.
  bool unread = false;
};

// Life: sockets may be added and closed at any time from any thread; stop() (or destruction) ends the thread and drops
// what is still queued. Threads: everything may be called from any thread; handlers and posted work run on the bus
// thread, one at a time, and must not block. One that throws is logged and counted; the bus goes on.
// A message that does not decode or is over the limits never reaches a handler as it came: a router answers it with an
// Error, under its correlation where that can be read; on a dealer such an Error takes its place, so that the asker
// hears of it. Without a correlation it is dropped there, counted and logged. One of a kind that this release does not
// know is counted, and comes as msg::Nothing: who answers questions answers it with kUnsupported.
class Bus {
 public:
  using Handler = std::function<void(Incoming)>;
  using Tick = std::function<void(std::chrono::steady_clock::time_point now)>;
  using Unreachable = std::function<void(const std::string& peer)>;
  using Lost = std::function<void()>;

  struct Limits {
    // Handed over by other threads and not yet looked at; one message more may exceed the bytes.
    std::size_t max_queued_messages = 100'000;
    std::size_t max_queued_bytes = 512UL << 20;
    // For a dealer that is not connected, or for one peer of a router that does not read; likewise.
    std::size_t max_waiting_messages = 10'000;
    std::size_t max_waiting_bytes = 64UL << 20;
    // Both ends must agree on these; schema/limits.h.
    std::size_t max_frame_bytes = kMaxFrameBytes;      // on the wire: larger payload frames are cut and joined again
    std::size_t max_frames = kMaxPayloadFrames;        // payload frames of a message, as handlers see them
    std::size_t max_message_bytes = kMaxMessageBytes;  // payload of a message
    // What is spoken here: protocol.h. Each message says so, and goes in the newest that its receiver speaks too, as
    // far as it has been heard. What has not, and who listens to a publisher, gets the oldest.
    msg::ProtocolRange protocols = msg::kProtocols;
    // Names that are dialled are looked up over IPv6, and over IPv4 where they have no other address; else over IPv4.
    bool names_over_ipv6 = false;
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

  // `address` is "host:port". The connection is made, and made again, in the background; a name is looked up each time,
  // which holds up nothing but what is dialled by name.
  // `lost` is told, on the bus thread, each time a connection has ended: nothing comes through that one any more, and
  // what is sent from then on waits for the next. What was on its way then, to here too, may be lost.
  [[nodiscard]] Result<SocketId> connect_dealer(const std::string& address, Handler handler, Lost lost = nullptr);
  [[nodiscard]] Result<SocketId> connect_subscriber(const std::string& address, Handler handler);
  void close(SocketId socket);

  // Sends a message, or keeps it until there is room; `peer` is needed on a router only. `deadline_ms` is counted down
  // while a message waits, and one whose deadline passes is dropped: nobody waits for its answer any more.
  // On the bus thread the result is what became of the message; elsewhere it is only what can be known at once (too
  // large, the queue full), and the rest is counted and told to `unreachable`. A failed message is dropped.
  // Errors: kTooLarge (over the limits of both ends), kOverloaded (a queue is full: the bus's, or what waits for this
  // peer), kUnavailable (the peer has gone, the socket is closed, the bus has stopped), kDeadlineExceeded.
  Result<void> send(SocketId socket, const std::string& peer, Message message);
  Result<void> send(SocketId socket, Message message) { return send(socket, {}, std::move(message)); }

  // The same for an answer: one that is too large is replaced by its error, under the same correlation, so that the
  // asker hears of it. The result is that of `message`.
  Result<void> answer(SocketId socket, const std::string& peer, Message message);

  // Finds out whether `peer` of a router is still connected, by sending it an Ok under correlation 0, which everybody
  // ignores; nothing is sent while messages wait for it. The result, and what `unreachable` is told, are those of send.
  Result<void> knock(SocketId socket, const std::string& peer);

  // The correlations of the messages that a dealer has not sent yet, in rising order. On the bus thread only.
  [[nodiscard]] std::vector<std::uint64_t> waiting(SocketId dealer) const;

  // Whether anything has come through the dealer's present connection, so that it is known what the peer speaks. On the
  // bus thread only.
  [[nodiscard]] bool has_heard(SocketId dealer) const;

  // Runs `work` on the bus thread soon; not bounded, so not for what a peer can ask for at will. False once the bus has
  // stopped: `work` will never run. What was taken runs, if only when everything is closed.
  bool post(std::function<void()> work);

  // Runs `tick` on the bus thread about every 50 ms.
  void on_tick(Tick tick);

  // Runs `work` on the bus thread as its last act, after every socket is closed; not when it has stopped already.
  void on_stopped(std::function<void()> work);

  // True in handlers, ticks and posted work.
  [[nodiscard]] bool on_bus_thread() const;

  // Messages that did not decode or were over the limits; sends that found no peer or no room; handlers, ticks and
  // posted work that threw. Also on /metrics, as slipway_bus_malformed_total and so on.
  [[nodiscard]] std::uint64_t malformed_total() const;
  [[nodiscard]] std::uint64_t undelivered_total() const;
  [[nodiscard]] std::uint64_t thrown_total() const;

  // Sends what is queued for at most `linger`, then ends the thread. Idempotent.
  void stop(std::chrono::milliseconds linger = std::chrono::milliseconds(0));

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slipway

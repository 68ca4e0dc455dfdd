// What is to be sent through one socket and finds no room there: kept by peer, in order, within limits, until there is
// room or its time is up. No socket, clock or thread in here.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"

namespace slipway {

// A message on its way out.
struct Outgoing {
  std::string peer;  // of a router; a dealer's is ""
  std::uint64_t correlation = 0;
  Frame envelope;                 // encoded
  std::uint16_t protocol = 0;     // in this one
  std::vector<Frame> pieces;      // of the payload
  std::uint32_t deadline_ms = 0;  // as the envelope has it; 0: none
  std::uint32_t left_ms = 0;      // of it, as of the last try
  std::optional<std::chrono::steady_clock::time_point> expires{};
  std::size_t bytes = 0;  // that it holds, about
};

// Writes what is left of its deadline into the envelope, which is copied for that: to be called once there is room.
void stamp(Outgoing& message);

// Threads: not thread-safe, the bus thread's.
class Outbox {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Limits {
    std::size_t max_messages = 10'000;   // waiting for one peer
    std::size_t max_bytes = 64UL << 20;  // waiting for one peer; one message more may exceed it
  };

  enum class Sent : std::uint8_t { kYes, kNoRoom, kGone };

  // `try_send` stamps the message and writes it at once and whole, or does not begin.
  // `gone` is told the peer of each waiting message that found it gone.
  using TrySend = std::function<Sent(Outgoing&)>;
  using Gone = std::function<void(const std::string& peer)>;

  Outbox(Limits limits, TrySend try_send, Gone gone);

  // Sends a message, or keeps it: behind what waits for the same peer, never behind another's.
  // Errors: kUnavailable (the peer has gone), kOverloaded (too much waits for it), kDeadlineExceeded.
  // With an error `message` is still the caller's.
  [[nodiscard]] Result<void> deliver(Outgoing&& message, TimePoint now);

  // Tries what waits again. One peer without room holds up only what is for itself.
  void flush(TimePoint now);

  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  [[nodiscard]] bool waits_for(const std::string& peer) const { return waiting_.contains(peer); }

  // Of the messages that wait for `peer`, in rising order.
  [[nodiscard]] std::vector<std::uint64_t> correlations(const std::string& peer) const;

 private:
  struct Queue {
    std::deque<Outgoing> messages;
    std::size_t bytes = 0;
  };

  // Counts what is left down. False: nothing is.
  static bool in_time(Outgoing& message, TimePoint now);

  const Limits limits_;
  const TrySend try_send_;
  const Gone gone_;
  std::map<std::string, Queue> waiting_;  // by peer, none empty
};

}  // namespace slipway

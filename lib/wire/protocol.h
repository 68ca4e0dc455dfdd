// Which protocol of the wire two processes speak with each other when their releases differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "lib/base/error.h"
#include "schema/messages.h"

namespace slipway {

[[nodiscard]] constexpr bool contains(msg::ProtocolRange range, std::uint16_t protocol) {
  return range.oldest <= protocol && protocol <= range.newest;
}

// The newest one that both speak; nullopt: there is none.
[[nodiscard]] std::optional<std::uint16_t> common_protocol(msg::ProtocolRange ours, msg::ProtocolRange theirs);

// What to say of a message in `written` that a process which speaks `theirs` sent to one that speaks `reader`.
[[nodiscard]] Error unread(std::uint16_t written, msg::ProtocolRange theirs, msg::ProtocolRange reader);

// What a process knows about the peers of one socket: each message says what its sender speaks. Threads: not
// thread-safe, the bus thread's.
class PeerProtocols {
 public:
  explicit PeerProtocols(msg::ProtocolRange ours, std::size_t max_peers = 100'000)
      : ours_(ours), max_peers_(max_peers) {}

  void heard(const std::string& peer, msg::ProtocolRange theirs);
  // Its connection has ended; the next one may be another release's.
  void forget(const std::string& peer) { differing_.erase(peer); }

  // The protocol of a message to `peer`: the newest common one; our oldest while nothing is known, or is common.
  [[nodiscard]] std::uint16_t write_in(const std::string& peer) const;

 private:
  const msg::ProtocolRange ours_;
  const std::size_t max_peers_;
  std::unordered_map<std::string, std::uint16_t> differing_;  // peers with whom it is not our oldest
};

}  // namespace slipway

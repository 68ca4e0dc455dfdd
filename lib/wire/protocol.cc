#include "lib/wire/protocol.h"

#include <algorithm>
#include <format>

namespace slipway {
namespace {

std::string words(msg::ProtocolRange range) {
  if (range.oldest == range.newest) return std::format("protocol {}", range.newest);
  return std::format("protocols {} to {}", range.oldest, range.newest);
}

}  // namespace

std::optional<std::uint16_t> common_protocol(msg::ProtocolRange ours, msg::ProtocolRange theirs) {
  const std::uint16_t newest = std::min(ours.newest, theirs.newest);
  if (newest < std::max(ours.oldest, theirs.oldest)) return std::nullopt;
  return newest;
}

Error unread(std::uint16_t written, msg::ProtocolRange theirs, msg::ProtocolRange reader) {
  std::string message =
      std::format("a message in protocol {}, from one that speaks {}, is not read by one that speaks {}", written,
                  words(theirs), words(reader));
  if (!common_protocol(theirs, reader)) {
    message += ": they have none in common; between releases so far apart, install one first that speaks both";
  }
  return {.code = Code::kUnsupported, .message = std::move(message), .path = {}};
}

void PeerProtocols::heard(const std::string& peer, msg::ProtocolRange theirs) {
  const auto common = common_protocol(ours_, theirs);
  if (!common || *common == ours_.oldest) {
    if (!differing_.empty()) differing_.erase(peer);
    return;
  }
  // Those forgotten say it again with their next message. Peers that come and go for ever must not fill the memory.
  if (differing_.size() >= max_peers_ && !differing_.contains(peer)) differing_.clear();
  differing_.insert_or_assign(peer, *common);
}

std::uint16_t PeerProtocols::write_in(const std::string& peer) const {
  const auto found = differing_.find(peer);
  return found == differing_.end() ? ours_.oldest : found->second;
}

}  // namespace slipway

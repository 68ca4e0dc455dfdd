// Payload frames larger than one frame on the wire: cut by the sender, joined again by the receiver, nobody else sees
// the pieces. The envelope's payload_bytes says how they belong together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"

namespace slipway {

struct PayloadLimits {
  std::size_t max_frame_bytes;    // of a piece
  std::size_t max_frames;         // whole ones
  std::size_t max_message_bytes;  // of all of them
};

// Errors: kTooLarge (over max_frames or max_message_bytes).
[[nodiscard]] Result<void> check_payload(std::span<const Frame> payload, const PayloadLimits& limits);

// Replaces frames larger than max_frame_bytes by pieces that share their owner. Returns the sizes of all frames for the
// envelope; empty when none was cut.
[[nodiscard]] std::vector<std::uint64_t> cut_payload(std::vector<Frame>& payload, std::size_t max_frame_bytes);

// Pieces that a message within the limits can come in.
[[nodiscard]] std::size_t max_pieces(const PayloadLimits& limits);

// The whole frames of `pieces`, which came with `sizes`: what a peer says of its sizes is believed only once they add
// up to what came. A frame that came in one piece is not copied.
// Errors: kTooLarge (over the limits), kInvalidArgument (the sizes are not those of the pieces).
[[nodiscard]] Result<std::vector<Frame>> join_payload(std::vector<Frame> pieces, std::span<const std::uint64_t> sizes,
                                                      const PayloadLimits& limits);

}  // namespace slipway

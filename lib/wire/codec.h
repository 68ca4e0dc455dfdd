// Plain structs to Cap'n Proto bytes and back. Bytes from a peer or a disk are hostile until decoded here: size,
// segments, nesting and traversal are bounded, and every failure is an Error. No reader leaves this room.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"
#include "schema/messages.h"

namespace slipway {

inline constexpr std::size_t kMaxEnvelopeBytes = 4 << 20;
inline constexpr std::uint16_t kProtocol = 1;

// An envelope with its payload frames: one ZeroMQ message.
struct Message {
  msg::Envelope envelope;
  std::vector<Frame> payload;
};

[[nodiscard]] Frame encode(const msg::Envelope& envelope);

// Errors: kInvalidArgument (not an envelope), kTooLarge (over kMaxEnvelopeBytes), kUnsupported (another protocol).
// A kind that this release does not know decodes to msg::Nothing.
[[nodiscard]] Result<msg::Envelope> decode(std::span<const std::byte> bytes);

// The same for one record on its own, as the registry stores it. `T` is one of Dataset, Job, JobEvent, Checkpoint,
// Lease, Version, Model, Alias, AliasMove, Quarantine, StoredFile.
template <class T>
[[nodiscard]] std::string encode_record(const T& record);

// Errors: kDataLoss (not such a record).
template <class T>
[[nodiscard]] Result<T> decode_record(std::span<const std::byte> bytes);

// Errors cross the wire as msg::Error.
[[nodiscard]] msg::Error to_message(const Error& error);
[[nodiscard]] Error from_message(const msg::Error& error);

}  // namespace slipway

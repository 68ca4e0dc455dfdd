// Plain structs to Cap'n Proto bytes and back. Bytes from a peer or a disk are hostile until decoded here: size,
// segments, nesting and traversal are bounded, and every failure is an Error. No reader leaves this room.
// An enumerator of a later release keeps its number both ways.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/frame.h"
#include "schema/limits.h"
#include "schema/messages.h"

namespace slipway {

// An envelope with its payload frames: one ZeroMQ message.
struct Message {
  msg::Envelope envelope;
  std::vector<Frame> payload;
};

// Always one segment, of a size counted beforehand. What does not `fit` is encoded too, and refused by the reader.
[[nodiscard]] Frame encode(const msg::Envelope& envelope);

// The same of what decode() takes. Errors: kTooLarge (over max_bytes, or a list of more than kMaxListItems).
[[nodiscard]] Result<Frame> encode(const msg::Envelope& envelope, std::size_t max_bytes);

// What encode() made, with another `deadline_ms`.
[[nodiscard]] Frame with_deadline(const Frame& encoded, std::uint32_t deadline_ms);
// The same with another `protocol`.
[[nodiscard]] Frame with_protocol(const Frame& encoded, std::uint16_t protocol);

// Bytes that encode() would make. Does not encode.
[[nodiscard]] std::size_t encoded_bytes(const msg::Envelope& envelope);

// What can be told of an envelope whatever its protocol.
struct EnvelopeHead {
  std::uint64_t correlation = 0;
  std::uint16_t protocol = 0;
  msg::ProtocolRange protocols{};
};
[[nodiscard]] std::optional<EnvelopeHead> head_of(std::span<const std::byte> bytes);

// Errors: kInvalidArgument (not an envelope), kTooLarge (over kMaxEnvelopeBytes), kUnsupported (a protocol outside of
// `ours`; errors and msg::OtherProtocol are read in any). A kind that this release does not know decodes to
// msg::Nothing.
[[nodiscard]] Result<msg::Envelope> decode(std::span<const std::byte> bytes, msg::ProtocolRange ours = msg::kProtocols);

// The same for one record on its own, as the registry stores it. `T` is one of Dataset, Job, JobEvent, Checkpoint,
// Lease, Version, Model, Alias, AliasMove, Quarantine, StoredFile.
template <class T>
[[nodiscard]] std::string encode_record(const T& record);
template <class T>
[[nodiscard]] std::size_t encoded_bytes(const T& record);

// To be asked before a record is kept: one that does not fit could never be sent to anybody.
// Errors: kTooLarge (over kMaxRecordBytes, or a list of more than kMaxListItems).
template <class T>
[[nodiscard]] Result<void> fits(const T& record);

// Errors: kDataLoss (not such a record: damaged, or of a later release that has changed it beyond reading).
template <class T>
[[nodiscard]] Result<T> decode_record(std::span<const std::byte> bytes);

// Errors cross the wire as msg::Error.
[[nodiscard]] msg::Error to_message(const Error& error);
[[nodiscard]] Error from_message(const msg::Error& error);

}  // namespace slipway

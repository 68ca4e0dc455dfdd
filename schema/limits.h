// What both ends of a connection must agree on. A sender refuses what is over these limits with kTooLarge, so that the
// other end never has to: a receiver that finds more can only drop it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace slipway {

inline constexpr std::size_t kMaxFrameBytes = 16 << 20;           // one frame on the wire; the bus cuts larger payload
inline constexpr std::size_t kMaxEnvelopeBytes = kMaxFrameBytes;  // never cut
inline constexpr std::size_t kMaxListItems = 100'000;             // of any list of an envelope or a record
inline constexpr std::size_t kMaxPayloadFrames = 256;             // of one message, counted whole
inline constexpr std::size_t kMaxMessageBytes = 256 << 20;        // of one message's payload, unless configured
inline constexpr std::size_t kMaxTensors = kMaxPayloadFrames;     // inputs or outputs of a model

// A page of a list holds kPageBytes of records and one record on top, and has to fit into an envelope.
inline constexpr std::size_t kPageBytes = 1 << 20;
inline constexpr std::size_t kMaxRecordBytes = 12 << 20;
static_assert(kPageBytes + kMaxRecordBytes < kMaxEnvelopeBytes);

inline constexpr std::size_t kUploadPartBytes = 1 << 20;  // of a file on its way to the registry, in one uploadPart
inline constexpr std::size_t kChunkBytes = 4 << 20;       // of a stored file, in one answer to getChunk

inline constexpr std::size_t kMaxNameBytes = 128;  // of a model, an alias, a data set
inline constexpr std::size_t kMaxRequestIdBytes = 128;

// A registry that was restored from a backup goes on at least so many revisions further on, so that everybody can tell.
inline constexpr std::uint64_t kRestoredRevisions = 100'000;

}  // namespace slipway

#include "lib/wire/payload.h"

#include <algorithm>
#include <cstring>

namespace slipway {
namespace {

Result<void> check(std::size_t frames, std::uint64_t bytes, const PayloadLimits& limits) {
  if (frames > limits.max_frames) {
    return fail(Code::kTooLarge,
                std::format("a message of {} payload frames, at most {} are taken", frames, limits.max_frames));
  }
  if (bytes > limits.max_message_bytes) {
    return fail(Code::kTooLarge,
                std::format("a message of {} bytes of payload, at most {} are taken", bytes, limits.max_message_bytes));
  }
  return {};
}

// `count` pieces from `first` on as one frame of `size` bytes.
Frame join(std::span<const Frame> pieces, std::size_t size) {
  if (pieces.size() == 1) return pieces.front();
  std::shared_ptr<std::byte[]> bytes = std::make_shared_for_overwrite<std::byte[]>(size);
  std::size_t at = 0;
  for (const Frame& piece : pieces) {
    std::memcpy(bytes.get() + at, piece.data(), piece.size());
    at += piece.size();
  }
  return Frame({bytes.get(), size}, bytes);
}

}  // namespace

Result<void> check_payload(std::span<const Frame> payload, const PayloadLimits& limits) {
  std::uint64_t bytes = 0;
  for (const Frame& frame : payload) bytes += frame.size();
  return check(payload.size(), bytes, limits);
}

std::vector<std::uint64_t> cut_payload(std::vector<Frame>& payload, std::size_t max_frame_bytes) {
  std::vector<std::uint64_t> sizes;
  if (std::ranges::none_of(payload, [&](const Frame& frame) { return frame.size() > max_frame_bytes; })) return sizes;
  std::vector<Frame> pieces;
  for (const Frame& frame : payload) {
    sizes.push_back(frame.size());
    std::size_t at = 0;
    do {
      const std::size_t size = std::min(max_frame_bytes, frame.size() - at);
      pieces.push_back(frame.part(at, size));
      at += size;
    } while (at < frame.size());
  }
  payload = std::move(pieces);
  return sizes;
}

std::size_t max_pieces(const PayloadLimits& limits) {
  return limits.max_frames + limits.max_message_bytes / limits.max_frame_bytes;
}

Result<std::vector<Frame>> join_payload(std::vector<Frame> pieces, std::span<const std::uint64_t> sizes,
                                        const PayloadLimits& limits) {
  if (sizes.empty()) {
    if (auto fits = check_payload(pieces, limits); !fits) return std::unexpected(std::move(fits).error());
    return pieces;
  }
  std::uint64_t bytes = 0;
  for (const std::uint64_t size : sizes) {
    bytes = size > limits.max_message_bytes ? size : bytes + size;  // cannot overflow: looked at each time
    if (auto fits = check(sizes.size(), bytes, limits); !fits) return std::unexpected(std::move(fits).error());
  }
  std::vector<Frame> whole;
  whole.reserve(sizes.size());
  std::size_t first = 0;
  for (const std::uint64_t size : sizes) {
    std::size_t end = first;
    std::uint64_t came = 0;
    // A frame has one piece at least; none of several is empty.
    do {
      if (end == pieces.size() || (end > first && pieces[end].size() == 0)) break;
      came += pieces[end++].size();
    } while (came < size);
    if (end == first || came != size) {
      return fail(Code::kInvalidArgument,
                  std::format("payload frame {} is said to have {} bytes, {} came", whole.size(), size, came));
    }
    whole.push_back(join(std::span(pieces).subspan(first, end - first), size));
    std::fill(pieces.begin() + static_cast<std::ptrdiff_t>(first), pieces.begin() + static_cast<std::ptrdiff_t>(end),
              Frame());
    first = end;
  }
  if (first != pieces.size()) {
    return fail(Code::kInvalidArgument,
                std::format("{} pieces of payload came, {} belong to a frame", pieces.size(), first));
  }
  return whole;
}

}  // namespace slipway

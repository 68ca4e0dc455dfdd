#include "services/inferencer/zip_layout.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <format>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

namespace slipway::inferencer {
namespace {

constexpr std::uint32_t kLocal = 0x04034b50;
constexpr std::uint32_t kCentral = 0x02014b50;
constexpr std::uint32_t kEnd = 0x06054b50;
constexpr std::uint32_t kEnd64 = 0x06064b50;
constexpr std::uint32_t kLocator64 = 0x07064b50;
constexpr std::uint32_t kDescriptor = 0x08074b50;

constexpr std::uint64_t kLocalBytes = 30;
constexpr std::uint64_t kCentralBytes = 46;
constexpr std::uint64_t kEndBytes = 22;
constexpr std::uint64_t kEnd64Bytes = 56;
constexpr std::uint64_t kLocatorBytes = 20;
constexpr std::uint16_t kHasDescriptor = 1U << 3;
constexpr std::uint32_t kIn64 = 0xffffffff;  // the true number stands in the 64-bit extension

std::unexpected<Error> not_one(std::string_view why) {
  return fail(Code::kInvalidArgument, std::format("not a TorchScript file: {}", why));
}

// Numbers at places that the caller has found to be inside.
class Bytes {
 public:
  explicit Bytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t size() const { return bytes_.size(); }
  bool holds(std::uint64_t at, std::uint64_t count) const { return at <= size() && count <= size() - at; }
  template <class T>
  T number(std::uint64_t at) const {
    T value = 0;
    std::memcpy(&value, bytes_.data() + at, sizeof value);  // both are little-endian
    return value;
  }
  std::uint16_t u16(std::uint64_t at) const { return number<std::uint16_t>(at); }
  std::uint32_t u32(std::uint64_t at) const { return number<std::uint32_t>(at); }
  std::uint64_t u64(std::uint64_t at) const { return number<std::uint64_t>(at); }
  std::string_view text(std::uint64_t at, std::uint64_t count) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + at, count};
  }

 private:
  std::span<const std::byte> bytes_;
};

struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t from = 0;
  std::uint64_t to = 0;  // where the end records begin
};

std::optional<Directory> find_directory(const Bytes& file) {
  if (file.size() < kEndBytes) return std::nullopt;
  const std::uint64_t end = file.size() - kEndBytes;
  const bool plain = file.u32(end) == kEnd && file.u16(end + 4) == 0 && file.u16(end + 6) == 0 &&
                     file.u16(end + 8) == file.u16(end + 10) && file.u16(end + 20) == 0;
  if (!plain) return std::nullopt;
  Directory found{.entries = file.u16(end + 10), .from = file.u32(end + 16), .to = end};
  std::uint64_t bytes = file.u32(end + 12);
  if (end >= kLocatorBytes && file.u32(end - kLocatorBytes) == kLocator64) {
    if (end < kLocatorBytes + kEnd64Bytes) return std::nullopt;
    const std::uint64_t end64 = end - kLocatorBytes - kEnd64Bytes;
    const bool good = file.u32(end - kLocatorBytes + 4) == 0 && file.u64(end - kLocatorBytes + 8) == end64 &&
                      file.u32(end - kLocatorBytes + 16) == 1 && file.u32(end64) == kEnd64 &&
                      file.u64(end64 + 4) == kEnd64Bytes - 12 && file.u32(end64 + 16) == 0 &&
                      file.u32(end64 + 20) == 0 && file.u64(end64 + 24) == file.u64(end64 + 32);
    if (!good) return std::nullopt;
    // A reader may take either record: they must say the same.
    const auto agree = [](std::uint64_t little, std::uint64_t none, std::uint64_t large) {
      return little == none || little == large;
    };
    if (!agree(found.entries, 0xffff, file.u64(end64 + 32)) || !agree(bytes, kIn64, file.u64(end64 + 40)) ||
        !agree(found.from, kIn64, file.u64(end64 + 48))) {
      return std::nullopt;
    }
    found = {.entries = file.u64(end64 + 32), .from = file.u64(end64 + 48), .to = end64};
    bytes = file.u64(end64 + 40);
  }
  if (!file.holds(found.from, bytes) || found.from + bytes != found.to) return std::nullopt;
  return found;
}

struct Entry {
  std::uint64_t at = 0;
  std::uint64_t stored_bytes = 0;
  std::uint64_t unpacked_bytes = 0;
  std::uint16_t flags = 0;
  std::uint16_t method = 0;
  std::string_view name;
};

// Takes from the extra field of a directory entry the numbers that did not fit into it.
bool read_zip64(const Bytes& file, std::uint64_t at, std::uint64_t bytes, Entry& entry) {
  const std::uint64_t end = at + bytes;
  bool seen = false;
  while (end - at >= 4) {
    const std::uint16_t id = file.u16(at);
    const std::uint64_t size = file.u16(at + 2);
    at += 4;
    if (size > end - at) return false;
    if (id == 1) {
      if (seen) return false;
      seen = true;
      std::uint64_t next = at;
      for (std::uint64_t* number : {&entry.unpacked_bytes, &entry.stored_bytes, &entry.at}) {
        if (*number != kIn64) continue;
        if (at + size - next < 8) return false;
        *number = file.u64(next);
        next += 8;
      }
    }
    at += size;
  }
  return at == end && (seen || (entry.unpacked_bytes != kIn64 && entry.stored_bytes != kIn64 && entry.at != kIn64));
}

std::optional<std::vector<Entry>> read_directory(const Bytes& file, const Directory& directory) {
  if (directory.entries > (directory.to - directory.from) / kCentralBytes) return std::nullopt;
  std::vector<Entry> entries;
  entries.reserve(directory.entries);
  std::uint64_t at = directory.from;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (directory.to - at < kCentralBytes || file.u32(at) != kCentral) return std::nullopt;
    const std::uint64_t name = file.u16(at + 28);
    const std::uint64_t extra = file.u16(at + 30);
    const std::uint64_t comment = file.u16(at + 32);
    if (directory.to - at - kCentralBytes < name + extra + comment) return std::nullopt;
    Entry entry{.at = file.u32(at + 42),
                .stored_bytes = file.u32(at + 20),
                .unpacked_bytes = file.u32(at + 24),
                .flags = file.u16(at + 8),
                .method = file.u16(at + 10),
                .name = file.text(at + kCentralBytes, name)};
    if (!read_zip64(file, at + kCentralBytes + name, extra, entry)) return std::nullopt;
    entries.push_back(entry);
    at += kCentralBytes + name + extra + comment;
  }
  if (at != directory.to) return std::nullopt;
  return entries;
}

// Where `entry` ends; nullopt: its local header is not what the directory says.
std::optional<std::uint64_t> end_of(const Bytes& file, const Directory& directory, const Entry& entry) {
  const auto left = [&](std::uint64_t at) { return directory.from - at; };
  std::uint64_t at = entry.at;
  if (at > directory.from || left(at) < kLocalBytes || file.u32(at) != kLocal) return std::nullopt;
  const std::uint16_t flags = file.u16(at + 6);
  const std::uint64_t name = file.u16(at + 26);
  const std::uint64_t extra = file.u16(at + 28);
  const bool descriptor = (flags & kHasDescriptor) != 0;
  const std::uint32_t stored = file.u32(at + 18);
  const std::uint32_t unpacked = file.u32(at + 22);
  if (left(at) - kLocalBytes < name + extra || file.text(at + kLocalBytes, name) != entry.name) return std::nullopt;
  if (flags != entry.flags || file.u16(at + 8) != entry.method) return std::nullopt;
  const auto agrees = [&](std::uint32_t local, std::uint64_t true_size) {
    return local == true_size || local == kIn64 || (descriptor && local == 0);
  };
  if (!agrees(stored, entry.stored_bytes) || !agrees(unpacked, entry.unpacked_bytes)) return std::nullopt;
  at += kLocalBytes + name + extra;
  if (left(at) < entry.stored_bytes) return std::nullopt;
  at += entry.stored_bytes;
  if (descriptor) {
    // Its mark may be missing, and its sizes have four or eight bytes.
    if (left(at) < 12) return std::nullopt;
    if (file.u32(at) == kDescriptor) at += 4;
    const bool small =
        left(at) >= 12 && file.u32(at + 4) == entry.stored_bytes && file.u32(at + 8) == entry.unpacked_bytes;
    const bool large =
        left(at) >= 20 && file.u64(at + 4) == entry.stored_bytes && file.u64(at + 12) == entry.unpacked_bytes;
    // Sizes of 0 fit both: what follows says which it is.
    if (large && (!small || left(at) == 20 || file.u32(at + 20) == kLocal)) {
      at += 20;
    } else if (small) {
      at += 12;
    } else {
      return std::nullopt;
    }
  }
  return at;
}

}  // namespace

Result<void> check_zip_layout(std::span<const std::byte> bytes) {
  const Bytes file(bytes);
  if (file.size() < kLocalBytes || file.u32(0) != kLocal) return not_one("it is not a zip archive");
  // Where some readers look for another format first.
  if (file.text(4, 4) == "PTMF") return not_one("it is a flatbuffer that looks like a zip archive");
  const auto directory = find_directory(file);
  if (!directory) return not_one("its zip archive is damaged (it does not end with its directory)");
  auto entries = read_directory(file, *directory);
  if (!entries) return not_one("its zip archive is damaged (its directory cannot be read)");
  std::ranges::sort(*entries, {}, &Entry::at);
  std::uint64_t at = 0;
  for (const Entry& entry : *entries) {
    if (entry.at != at) return not_one(std::format("bytes {} to {} belong to no entry of its archive", at, entry.at));
    const auto end = end_of(file, *directory, entry);
    if (!end) return not_one(std::format("the entry at byte {} is not what the archive's directory says", at));
    at = *end;
  }
  if (at != directory->from)
    return not_one(std::format("bytes {} to {} belong to no entry of its archive", at, directory->from));
  return {};
}

}  // namespace slipway::inferencer

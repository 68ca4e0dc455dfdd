#include "services/gateway/tar_header.h"

#include <format>
#include <numeric>

namespace slipway::gateway {
namespace {

// Where the fields of a block begin, and how long they are.
struct Field {
  std::size_t at;
  std::size_t size;
};
constexpr Field kName{0, 100};
constexpr Field kMode{100, 8};
constexpr Field kOwner{108, 8};
constexpr Field kGroup{116, 8};
constexpr Field kSize{124, 12};
constexpr Field kModified{136, 12};
constexpr Field kChecksum{148, 8};
constexpr Field kType{156, 1};
constexpr Field kMagic{257, 8};

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 33;  // 11 octal digits

void put(std::string& block, Field field, std::string_view text) { block.replace(field.at, text.size(), text); }
void put_number(std::string& block, Field field, std::uint64_t number) {
  put(block, field, std::format("{:0{}o}", number, field.size - 1));
}

}  // namespace

Result<std::string> tar_header(std::string_view name, std::uint64_t size_bytes, std::int64_t modified_seconds) {
  if (name.size() > kName.size || size_bytes >= kMostBytes) {
    return fail(Code::kInternal, std::format("a tar archive has no room for '{}' of {} bytes", name, size_bytes));
  }
  std::string block(kTarBlockBytes, '\0');
  put(block, kName, name);
  put_number(block, kMode, 0640);
  put_number(block, kOwner, 0);
  put_number(block, kGroup, 0);
  put_number(block, kSize, size_bytes);
  put_number(block, kModified, modified_seconds > 0 ? static_cast<std::uint64_t>(modified_seconds) : 0);
  put(block, kType, "0");
  put(block, kMagic, std::string_view("ustar\00000", 8));
  // Of the block with blanks in its place.
  put(block, kChecksum, "        ");
  const auto sum = std::accumulate(block.begin(), block.end(), std::uint64_t{0},
                                   [](std::uint64_t all, char c) { return all + static_cast<unsigned char>(c); });
  put(block, kChecksum, std::string(std::format("{:06o}", sum)) + std::string("\0 ", 2));
  return block;
}

}  // namespace slipway::gateway

#include "services/inferencer/zip_layout.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace slipway::inferencer {
namespace {

using namespace std::string_literals;

template <class T>
std::string le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string u16(unsigned value) { return le(static_cast<std::uint16_t>(value)); }
std::string u32(std::uint64_t value) { return le(static_cast<std::uint32_t>(value)); }

struct Entry {
  std::string name;
  std::string bytes;
};

struct Shape {
  std::vector<std::string> gaps = {"", "", ""};  // before each entry, and before the directory
  std::string trailing{};
  std::string local_name{};  // instead of the first entry's
  bool descriptors = false;
  std::string start = "\0\0\0\0"s;  // the first entry's version and flags, when not those of the directory
};

// Two stored entries.
std::string zip(const Shape& shape = {}) {
  const std::vector<Entry> entries{{"m/a", "first"}, {"m/b", ""}};
  std::string file;
  std::string directory;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto& [name, bytes] = entries[i];
    file += shape.gaps[i];
    const std::string flags = u16(shape.descriptors ? 8 : 0);
    const std::string sizes = u32(bytes.size()) + u32(bytes.size());
    directory += "PK\1\2" + u16(20) + u16(20) + flags + u16(0) + u32(0) + u32(7) + sizes + u16(name.size()) + u16(0) +
                 u16(0) + u16(0) + u16(0) + u32(0) + u32(file.size()) + name;
    const std::string version = i == 0 && shape.start != "\0\0\0\0"s ? shape.start : u16(20) + flags;
    file += "PK\3\4" + version + u16(0) + u32(0) + u32(shape.descriptors ? 0 : 7) +
            (shape.descriptors ? u32(0) + u32(0) : sizes) + u16(name.size()) + u16(0) +
            (i == 0 && !shape.local_name.empty() ? shape.local_name : name) + bytes;
    if (shape.descriptors) file += "PK\7\10" + u32(7) + sizes;
  }
  file += shape.gaps[2];
  const std::string end = u16(0) + u16(0) + u16(2) + u16(2) + u32(directory.size()) + u32(file.size()) + u16(0);
  return file + directory + "PK\5\6" + end + shape.trailing;
}

Result<void> check(const std::string& file) { return check_zip_layout(std::as_bytes(std::span(file))); }

TEST(ZipLayout, TakesAnArchiveOfNothingButItsEntries) {
  EXPECT_TRUE(check(zip())) << check(zip()).error().message;
  EXPECT_TRUE(check(zip({.descriptors = true})));
}

TEST(ZipLayout, RefusesBytesThatBelongToNoEntry) {
  for (std::size_t place = 0; place < 3; ++place) {
    Shape shape;
    shape.gaps[place] = "x";
    EXPECT_FALSE(check(zip(shape))) << place;
  }
  EXPECT_FALSE(check("#!" + zip()));
  EXPECT_FALSE(check(zip({.trailing = "x"})));
}

// Torch looks at bytes 4 to 8 before it looks for a zip archive.
TEST(ZipLayout, RefusesTheMarkOfAFlatbuffer) {
  const auto refused = check(zip({.start = "PTMF"}));
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.contains("flatbuffer")) << refused.error().message;
}

TEST(ZipLayout, RefusesAnEntryThatTheDirectoryNamesOtherwise) { EXPECT_FALSE(check(zip({.local_name = "m/c"}))); }

TEST(ZipLayout, RefusesEveryTruncation) {
  const std::string whole = zip({.descriptors = true});
  for (std::size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(check(whole.substr(0, size))) << size;
}

TEST(ZipLayout, SurvivesFlippedBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes = zip({.descriptors = i % 2 == 0});
    for (int flips = 0; flips < 2; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
    static_cast<void>(check(bytes));
  }
}

}  // namespace
}  // namespace slipway::inferencer

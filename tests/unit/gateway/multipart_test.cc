#include "services/gateway/multipart.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

const std::string kForm =
    "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.csv\"\r\nContent-Type: "
    "text/csv\r\n\r\n"
    "x,y\r\n--\r\n--bogus? no: \r\n-\r\n--b  \r\ncontent-disposition: form-data; "
    "name=empty\r\n\r\n\r\n--b--\r\nepilogue";
// "--bogus" begins with the delimiter, so it ends the part: what follows is no line end and the form is refused.

std::string form(std::string_view first) {
  return "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.csv\"\r\nContent-Type: "
         "text/csv\r\n\r\n" +
         std::string(first) + "\r\n--b  \r\ncontent-disposition: form-data; name=empty\r\n\r\n\r\n--b--\r\nepilogue";
}

// What the pieces say, whatever their cuts.
Result<std::string> read(std::string_view text, std::size_t cut, std::size_t second_cut) {
  MultipartParser parser("b");
  std::string told;
  const std::string_view parts[] = {text.substr(0, cut), text.substr(cut, second_cut - cut), text.substr(second_cut)};
  for (const auto part : parts) {
    std::vector<PartPiece> pieces;
    if (auto pushed = parser.push(part, pieces); !pushed) return std::unexpected(pushed.error());
    for (const auto& piece : pieces) {
      if (piece.kind == PartPiece::Kind::kBegin)
        told += std::format("<{}|{}|{}>", piece.head.name, piece.head.filename, piece.head.content_type);
      if (piece.kind == PartPiece::Kind::kData) told += piece.data;
      if (piece.kind == PartPiece::Kind::kEnd) told += "</>";
    }
  }
  if (auto whole = parser.finish(); !whole) return std::unexpected(whole.error());
  return told;
}

TEST(Multipart, SaysTheSameWhereverTheBodyIsCut) {
  const std::string data = "x,y\r\n--\r\n--a\r\r\n-";
  const std::string text = form(data);
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    for (std::size_t second = cut; second <= text.size(); second += 1 + (second - cut) / 3) {
      const auto told = read(text, cut, second);
      ASSERT_TRUE(told) << cut << " " << second << ": " << told.error().message;
      ASSERT_EQ(*told, "<file|a b.csv|text/csv>" + data + "</><empty||></>") << cut << " " << second;
    }
  }
}

TEST(Multipart, SaysTheSameByteByByte) {
  const std::string text = form("12345");
  MultipartParser parser("b");
  std::string data;
  for (const char c : text) {
    std::vector<PartPiece> pieces;
    ASSERT_TRUE(parser.push({&c, 1}, pieces));
    for (const auto& piece : pieces) data += piece.data;
  }
  EXPECT_TRUE(parser.finish());
  EXPECT_EQ(data, "12345");
}

TEST(Multipart, RefusesAFormThatBreaksOff) {
  const std::string text = form("x");
  for (std::size_t size = 0; size < text.find("--b--") + 5; ++size)
    EXPECT_FALSE(read(std::string_view(text).substr(0, size), 0, 0)) << size;
}

TEST(Multipart, RefusesWhatIsNotTheAnnouncedForm) {
  EXPECT_FALSE(read(kForm, 0, 0));
  EXPECT_FALSE(read("--b\r\nContent-Disposition: form-data; filename=x\r\n\r\n\r\n--b--", 0, 0))
      << "a part without a name";
  EXPECT_FALSE(read("--b\r\nnonsense\r\n\r\n\r\n--b--", 0, 0));
  EXPECT_EQ(read("--b\r\n" + std::string(5000, 'a'), 0, 0).error().code, Code::kTooLarge);
}

TEST(Multipart, FindsTheBoundary) {
  EXPECT_EQ(MultipartParser::boundary_of("multipart/form-data; boundary=abc").value(), "abc");
  EXPECT_EQ(MultipartParser::boundary_of("Multipart/Form-Data; charset=x; boundary=\"a b;c\"").value(), "a b;c");
  EXPECT_FALSE(MultipartParser::boundary_of("multipart/form-data"));
  EXPECT_FALSE(MultipartParser::boundary_of("multipart/mixed; boundary=a"));
  EXPECT_FALSE(MultipartParser::boundary_of("multipart/form-data; boundary=" + std::string(71, 'a')));
}

TEST(Multipart, RefusesFileNamesThatLeadElsewhere) {
  EXPECT_TRUE(check_file_name("train-images-idx3-ubyte.gz"));
  for (const char* name : {"", ".", "..", "a/b", "a\\b", "a\nb"}) EXPECT_FALSE(check_file_name(name)) << name;
}

}  // namespace
}  // namespace slipway::gateway

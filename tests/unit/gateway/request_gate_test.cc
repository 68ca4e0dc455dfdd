#include "services/gateway/request_gate.h"

#include <gmock/gmock.h>

namespace slipway::gateway {
namespace {

const GateLimits kLimits;

Code refused(std::string_view fields, std::string_view line = "POST /predict HTTP/1.1") {
  const auto checked = check_header(std::string(line) + "\r\n" + std::string(fields) + "\r\n", kLimits);
  EXPECT_FALSE(checked);
  return checked ? Code{} : checked.error().code;
}

TEST(RequestGate, TakesAnOrdinaryRequest) {
  EXPECT_TRUE(check_header("POST /a?b=c HTTP/1.1\r\nHost: x:80\r\nContent-Length: 12\r\nAccept: */*\r\n\r\n", kLimits));
  EXPECT_TRUE(check_header("POST / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", kLimits));
  EXPECT_TRUE(check_header("GET / HTTP/1.0\r\n\r\n", kLimits));
}
TEST(RequestGate, RefusesAMissingHost) { EXPECT_EQ(refused("Accept: a\r\n"), Code::kInvalidArgument); }
TEST(RequestGate, RefusesTwoHosts) { EXPECT_EQ(refused("Host: a\r\nHost: a\r\n"), Code::kInvalidArgument); }
TEST(RequestGate, RefusesAHostList) { EXPECT_EQ(refused("Host: a, b\r\n"), Code::kInvalidArgument); }
TEST(RequestGate, RefusesCodingsOtherThanChunked) {
  for (const char* coding : {"gzip", "chunked, identity", "gzip, chunked", "identity", "", "xchunked"}) {
    EXPECT_EQ(refused(std::format("Host: a\r\nTransfer-Encoding: {}\r\n", coding)), Code::kUnsupported) << coding;
  }
}
TEST(RequestGate, RefusesTwoTransferEncodings) {
  EXPECT_EQ(refused("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesLengthBesideCoding) {
  EXPECT_EQ(refused("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Code::kInvalidArgument);
  EXPECT_EQ(refused("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesTwoLengthsEvenEqualOnes) {
  EXPECT_EQ(refused("Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesALengthThatIsNoNumber) {
  for (const char* length : {"-1", "+1", "1,1", "0x1", "", "1 1", "9999999999999999999"}) {
    EXPECT_EQ(refused(std::format("Host: a\r\nContent-Length: {}\r\n", length)), Code::kInvalidArgument) << length;
  }
}
TEST(RequestGate, RefusesFoldedLines) {
  EXPECT_EQ(refused("Host: a\r\nX: 1\r\n 2\r\n"), Code::kInvalidArgument);
  EXPECT_EQ(refused("Host: a\r\nX: 1\r\n\t2\r\n"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesABlankBeforeTheColon) { EXPECT_EQ(refused("Host : a\r\n"), Code::kInvalidArgument); }
TEST(RequestGate, RefusesControlCharacters) {
  EXPECT_EQ(refused(std::string_view("Host: a\r\nX: a\0b\r\n", 17)), Code::kInvalidArgument);
  EXPECT_EQ(refused("Host: a\r\nX: a\rb\r\n"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesAnnouncedTrailers) { EXPECT_EQ(refused("Host: a\r\nTrailer: X\r\n"), Code::kInvalidArgument); }
TEST(RequestGate, RefusesChunksInHttp10) {
  EXPECT_EQ(refused("Host: a\r\nTransfer-Encoding: chunked\r\n", "POST / HTTP/1.0"), Code::kInvalidArgument);
}
TEST(RequestGate, RefusesOtherVersionsAndTargets) {
  EXPECT_EQ(refused("Host: a\r\n", "GET / HTTP/2.0"), Code::kUnsupported);
  for (const char* target : {"http://", "http:///x", "http://me@a/", "ftp://a/", "a/b", "*"})
    EXPECT_EQ(refused("Host: a\r\n", std::format("GET {} HTTP/1.1", target).c_str()), Code::kInvalidArgument) << target;
  EXPECT_EQ(refused("Host: a\r\n", "GET /a b HTTP/1.1"), Code::kInvalidArgument);
  EXPECT_EQ(refused("Host: a\r\n", "GE(T / HTTP/1.1"), Code::kInvalidArgument);
}
TEST(RequestGate, TakesTargetsInAbsoluteForm) {
  for (const char* target : {"http://a/", "HTTP://a:80/x?y=/", "https://[::1]", "http://a?b"})
    EXPECT_TRUE(check_header(std::format("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target), kLimits)) << target;
  const auto parts = split_target("HTTP://a:80/x?y=/");
  EXPECT_EQ(parts.host, "a:80");
  EXPECT_EQ(parts.path, "/x");
  EXPECT_EQ(parts.query, "y=/");
  EXPECT_EQ(split_target("http://a?b").path, "/");
  EXPECT_EQ(split_target("http://a?b").query, "b");
  EXPECT_EQ(split_target("/x?http://a/").host, "");
}
TEST(RequestGate, CountsFields) {
  std::string fields = "Host: a\r\n";
  for (int i = 1; i < 100; ++i) fields += std::format("X{}: 1\r\n", i);
  EXPECT_TRUE(check_header("GET / HTTP/1.1\r\n" + fields + "\r\n", kLimits));
  EXPECT_EQ(refused(fields + "Y: 1\r\n"), Code::kTooLarge);
}
TEST(RequestGate, FindsTheEndOfAHeaderOfAtMost16KiB) {
  EXPECT_EQ(header_end("GET / HTTP/1.1\r\nHost: a\r\n", kLimits).value(), 0U);
  EXPECT_EQ(header_end("GET / HTTP/1.1\r\n\r\nbody", kLimits).value(), 18U);
  const std::string start = "GET / HTTP/1.1\r\nA: ";
  std::string largest = start + std::string(kLimits.max_header_bytes - start.size() - 4, 'a') + "\r\n\r\n";
  EXPECT_EQ(header_end(largest, kLimits).value(), kLimits.max_header_bytes);
  largest.insert(20, "a");
  EXPECT_EQ(header_end(largest, kLimits).error().code, Code::kTooLarge);
}
TEST(RequestGate, RefusesABareLineFeed) {
  EXPECT_EQ(header_end("GET / HTTP/1.1\nHost: a\r\n\r\n", kLimits).error().code, Code::kInvalidArgument);
}
TEST(RequestGate, CapsChunkExtensionsAndFraming) {
  ChunkGate gate(kLimits);
  EXPECT_TRUE(gate.on_chunk(kLimits.max_chunk_extension_bytes));
  EXPECT_EQ(gate.on_chunk(kLimits.max_chunk_extension_bytes + 1).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(gate.on_bytes(kLimits.chunk_slack_bytes + 20, 10));
  EXPECT_EQ(gate.on_bytes(1, 0).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace slipway::gateway

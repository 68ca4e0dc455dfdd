#include "services/gateway/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <future>

#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// A blocking client that says bytes and reads until the server closes.
class Client {
 public:
  explicit Client(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval most{.tv_sec = 10, .tv_usec = 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  void say(std::string_view bytes) const {
    EXPECT_EQ(send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  [[nodiscard]] std::string hear(std::string_view until = {}) const {
    std::string heard;
    char bytes[4096];
    while (until.empty() || !heard.contains(until)) {
      const auto got = recv(socket_, bytes, sizeof bytes, 0);
      if (got <= 0) break;
      heard.append(bytes, static_cast<std::size_t>(got));
    }
    return heard;
  }

 private:
  int socket_;
};

struct HttpServerTest : testing::Test {
  Settings settings;
  RouteTable routes;
  std::unique_ptr<HttpServer> server;

  void SetUp() override {
    settings.http_threads = 1;
    settings.max_body_bytes = 100;
    settings.header_timeout_ms = 200;
    settings.body_grace_ms = 200;
    const auto add = [&](const char* method, const char* pattern, BodyPolicy body, Handler handler) {
      Route route;
      route.method = method;
      route.pattern = pattern;
      route.body = body;
      route.handler = std::move(handler);
      routes.add(std::move(route));
    };
    add("POST", "/echo", BodyPolicy::kMemory,
        [](Call& call) -> Task<Response> { co_return json_response(200, call.body); });
    add("GET", "/stream", BodyPolicy::kNone, [](Call&) -> Task<Response> {
      Response response;
      response.stream = [](BodyWriter& writer) -> Task<void> {
        co_await writer.write("one");
        co_await writer.write("two");
      };
      co_return response;
    });
    add("PUT", "/count", BodyPolicy::kStream, [](Call& call) -> Task<Response> {
      std::size_t bytes = 0;
      while (true) {
        auto part = co_await call.reader->next();
        if (!part) co_return error_response(part.error(), Dialect::kPlain, call.request);
        if (part->empty()) break;
        bytes += part->size();
      }
      co_return json_response(200, std::to_string(bytes));
    });
    add("GET", "/throw", BodyPolicy::kNone, [](Call&) -> Task<Response> {
      throw std::runtime_error("broken");
      co_return Response();
    });
  }
  void start() {
    auto started = HttpServer::start("127.0.0.1", 0, settings, routes);
    ASSERT_TRUE(started);
    server = std::move(*started);
  }
  std::string ask(std::string_view request) {
    if (!server) start();
    const Client client(server->port());
    client.say(request);
    return client.hear();
  }
};

TEST_F(HttpServerTest, AnswersAPipelineInOrder) {
  const std::string heard =
      ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1POST /echo HTTP/1.1\r\nHost: "
          "a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n"
          "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\n3");
  const auto first = heard.find("\r\n\r\n1"), second = heard.find("\r\n\r\n2"), third = heard.find("\r\n\r\n3");
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
  EXPECT_NE(third, std::string::npos) << heard;
}
TEST_F(HttpServerTest, EchoesACleanRequestIdAndMakesOneOtherwise) {
  EXPECT_THAT(ask("GET /none HTTP/1.1\r\nHost: a\r\nX-Request-Id: abc\r\nConnection: close\r\n\r\n"),
              HasSubstr("X-Request-Id: abc\r\n"));
  EXPECT_THAT(ask("GET /none HTTP/1.1\r\nHost: a\r\nX-Request-Id: a b\r\nConnection: close\r\n\r\n"),
              Not(HasSubstr("a b")));
}
TEST_F(HttpServerTest, ClosesAfterAMalformedRequest) {
  EXPECT_THAT(ask("GET / HTTP/1.1\r\n\r\nGET /stream HTTP/1.1\r\nHost: a\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 400 "), Not(HasSubstr("200 OK"))));
}
TEST_F(HttpServerTest, RefusesTrailersAndCloses) {
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nAuthorization: "
                  "me\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 400 "), HasSubstr("trailers"), HasSubstr("Connection: close")));
}
TEST_F(HttpServerTest, RefusesLongChunkExtensions) {
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(500, 'e') +
                  "\r\nx\r\n0\r\n\r\n"),
              StartsWith("HTTP/1.1 400 "));
}
TEST_F(HttpServerTest, NamesTheBodyLimit) {
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 413 "), HasSubstr("100 bytes")));
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + std::string(101, 'x') +
                  "\r\n0\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
}
TEST_F(HttpServerTest, AsksForABodyThatIsExpected) {
  start();
  const Client client(server->port());
  client.say(
      "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.hear("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.say("ok");
  EXPECT_THAT(client.hear(), testing::EndsWith("ok"));
}
TEST_F(HttpServerTest, DoesNotAskForABodyItRefuses) {
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n"),
              StartsWith("HTTP/1.1 413 "));
}
TEST_F(HttpServerTest, StreamsInChunksAndToTheEndForHttp10) {
  EXPECT_THAT(ask("GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
              testing::EndsWith("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
  EXPECT_THAT(ask("GET /stream HTTP/1.0\r\n\r\n"), testing::EndsWith("\r\n\r\nonetwo"));
}
TEST_F(HttpServerTest, HeadHasNoBody) {
  EXPECT_THAT(ask("HEAD /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), testing::EndsWith("\r\n\r\n"));
}
TEST_F(HttpServerTest, CutsOffAHeaderThatDripsIn) {
  EXPECT_THAT(ask("GET /stream HTTP/1.1\r\nHo"), Not(HasSubstr("200 OK")));
}
TEST_F(HttpServerTest, CutsOffABodyThatStalls) {
  EXPECT_THAT(ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"), Not(HasSubstr("200 OK")));
}
TEST_F(HttpServerTest, CountsAStreamedBody) {
  const std::string body(3'000'000, 'x');
  EXPECT_THAT(ask(std::format("PUT /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                              body.size(), body)),
              testing::EndsWith("3000000"));
}
TEST_F(HttpServerTest, SurvivesAHandlerThatThrows) {
  EXPECT_THAT(ask("GET /throw HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StartsWith("HTTP/1.1 500 "));
}
TEST_F(HttpServerTest, RefusesConnectionsOverTheCap) {
  settings.max_connections = 1;
  start();
  const Client first(server->port());
  first.say("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1");
  EXPECT_THAT(first.hear("\r\n\r\n1"), HasSubstr("200 OK"));
  const Client second(server->port());
  EXPECT_THAT(second.hear("\r\n\r\n"), StartsWith("HTTP/1.1 503 "));
}
TEST_F(HttpServerTest, RefusesABodyOverTheBudgetOfAllRequests) {
  settings.max_body_bytes = 60;
  settings.max_buffered_bytes = 100;
  settings.body_grace_ms = 60'000;
  start();
  const Client first(server->port());
  first.say("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 60\r\n\r\n");
  EXPECT_THAT(first.hear("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  first.say(std::string(59, 'x'));
  const std::string whole =
      "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50\r\n\r\n" + std::string(50, 'y');
  // One thread serves both and took the first's bytes, which were there before, first.
  EXPECT_THAT(ask(whole),
              testing::AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("Retry-After: "), HasSubstr("100 bytes")));
  first.say("x");
  EXPECT_THAT(first.hear("xx"), HasSubstr("200 OK"));
  EXPECT_THAT(ask(whole), StartsWith("HTTP/1.1 200 "));
}
TEST_F(HttpServerTest, DestructionSurvivesACoroutineThatIsAnsweredLater) {
  std::function<void(int)> answer;
  std::promise<void> asked;
  Route route;
  route.method = "GET";
  route.pattern = "/parked";
  route.body = BodyPolicy::kNone;
  route.handler = [&](Call&) -> Task<Response> {
    const int status = co_await await_value<int>([&](auto done) {
      answer = [done](int value) mutable { done(value); };
      asked.set_value();
    });
    co_return json_response(status, "{}");
  };
  routes.add(std::move(route));
  start();
  const Client client(server->port());
  client.say("GET /parked HTTP/1.1\r\nHost: a\r\n\r\n");
  asked.get_future().wait();
  server.reset();
  answer(200);
  answer = nullptr;
}
TEST_F(HttpServerTest, DrainClosesIdleConnections) {
  start();
  const Client client(server->port());
  client.say("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1");
  EXPECT_THAT(client.hear("\r\n\r\n1"), HasSubstr("200 OK"));
  EXPECT_TRUE(server->drain(std::chrono::seconds(10)));
  EXPECT_EQ(client.hear(), "");
}

}  // namespace
}  // namespace slipway::gateway

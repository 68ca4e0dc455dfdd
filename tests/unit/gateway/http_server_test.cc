#include "services/gateway/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <future>
#include <thread>
#include <vector>

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
    settings.allowed_hosts = {"a"};
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
    add("GET", "/host", BodyPolicy::kNone, [](Call& call) -> Task<Response> {
      co_return json_response(200, call.request.host + " " + call.request.path + " " + call.request.query);
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
TEST_F(HttpServerTest, AnIdleConnectionKeepsNoLargeBuffer) {
  constexpr double kSmall = 16 << 10;
  std::atomic<double> meanwhile = 0;
  Route route;
  route.method = "PUT";
  route.pattern = "/held";
  route.body = BodyPolicy::kStream;
  route.handler = [&](Call& call) -> Task<Response> {
    for (auto part = co_await call.reader->next(); part && !part->empty(); part = co_await call.reader->next()) {
    }
    meanwhile = metrics().connection_buffers.Value();
    co_return json_response(200, "{}");
  };
  routes.add(std::move(route));
  start();
  const std::string body(3'000'000, 'x');
  const Client client(server->port());
  client.say(std::format("PUT /held HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  EXPECT_THAT(client.hear("{}"), HasSubstr("200 OK"));
  EXPECT_GT(meanwhile, kSmall);
  // It waits for the next request a moment after its answer.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (metrics().connection_buffers.Value() > kSmall && std::chrono::steady_clock::now() < until)
    std::this_thread::yield();
  EXPECT_LE(metrics().connection_buffers.Value(), kSmall);
  client.say("GET /host HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.hear("/host"), HasSubstr("200 OK")) << "it is still open";
}
TEST_F(HttpServerTest, SurvivesAHandlerThatThrowsAndCountsIt) {
  const double before = metrics().handler_failures.Value();
  EXPECT_THAT(ask("GET /throw HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StartsWith("HTTP/1.1 500 "));
  EXPECT_EQ(metrics().handler_failures.Value(), before + 1);
}
TEST_F(HttpServerTest, NothingIsInFlightOnceAllIsAnswered) {
  ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");  // and no more
  ask("GET /throw HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  server.reset();
  EXPECT_EQ(metrics().inflight.Value(), 0);
  EXPECT_EQ(metrics().connection_buffers.Value(), 0);
}
TEST_F(HttpServerTest, TakesTargetsInAbsoluteForm) {
  EXPECT_THAT(ask("GET http://a:81/host?x=1 HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"),
              testing::EndsWith("a:81 /host x=1"));
  EXPECT_THAT(ask("GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(ask("GET http://me@a/host HTTP/1.1\r\nHost: a\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(ask("GET http:///host HTTP/1.1\r\nHost: a\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
}
TEST_F(HttpServerTest, OnLoopbackServesLoopbackHostsAndThoseAllowed) {
  const auto from = [&](std::string_view host) {
    return ask(std::format("GET /host HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", host));
  };
  for (const char* host : {"localhost", "LOCALHOST:7", "x.localhost", "127.0.0.1:8080", "127.1.2.3", "[::1]:80", "a:9"})
    EXPECT_THAT(from(host), StartsWith("HTTP/1.1 200 ")) << host;
  for (const char* host :
       {"evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "128.0.0.1", "[::2]", "b"})
    EXPECT_THAT(from(host), testing::AllOf(StartsWith("HTTP/1.1 403 "), HasSubstr("--allowed-hosts"))) << host;
  EXPECT_THAT(ask("GET http://evil.example/host HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 403 "));
  EXPECT_THAT(ask("GET /host HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}
TEST_F(HttpServerTest, ForeignPagesChangeNothing) {
  settings.allowed_origins = {"https://dash.example"};
  const auto post = [&](std::string_view fields) {
    return ask(std::format("POST /echo HTTP/1.1\r\nHost: a:8080\r\n{}Content-Length: 2\r\nConnection: close\r\n\r\n42",
                           fields));
  };
  EXPECT_THAT(post(""), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(post("Origin: http://a:8080\r\nSec-Fetch-Site: same-origin\r\n"), StartsWith("HTTP/1.1 200 "));
  for (const char* fields : {"Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-site\r\n", "Origin: null\r\n",
                             "Origin: https://evil.example\r\n", "Origin: http://a:8081\r\n",
                             "Origin: http://a:8080\r\nSec-Fetch-Site: cross-site\r\n"}) {
    EXPECT_THAT(post(fields), testing::AllOf(StartsWith("HTTP/1.1 403 "), HasSubstr("another origin"))) << fields;
  }
  EXPECT_THAT(
      post("Origin: https://dash.example\r\nSec-Fetch-Site: cross-site\r\n"),
      testing::AllOf(StartsWith("HTTP/1.1 200 "), HasSubstr("Access-Control-Allow-Origin: https://dash.example\r\n")));
  EXPECT_THAT(ask("GET /host HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: cross-site\r\nConnection: close\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 200 "), Not(HasSubstr("Access-Control"))));
  // It predicts, whatever its method.
  for (const char* path : {"/predict?values=1", "/pr%65dict?values=1"}) {
    EXPECT_THAT(
        ask(std::format("GET {} HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: cross-site\r\nConnection: close\r\n\r\n", path)),
        StartsWith("HTTP/1.1 403 "))
        << path;
  }
  const std::string preflight =
      "OPTIONS /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccess-Control-Request-Method: POST\r\n"
      "Access-Control-Request-Headers: content-type\r\nOrigin: ";
  EXPECT_THAT(ask(preflight + "https://dash.example\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 204 "), HasSubstr("Access-Control-Allow-Headers: content-type\r\n")));
  EXPECT_THAT(ask(preflight + "https://evil.example\r\n\r\n"),
              testing::AllOf(StartsWith("HTTP/1.1 405 "), Not(HasSubstr("Access-Control"))));
}
TEST_F(HttpServerTest, RefusesConnectionsOverTheCapWhenNoneIsIdle) {
  settings.max_connections = 1;
  settings.body_grace_ms = 60'000;
  start();
  const Client first(server->port());
  first.say("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_THAT(first.hear("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  const Client second(server->port());
  EXPECT_THAT(second.hear("\r\n\r\n"), StartsWith("HTTP/1.1 503 "));
  first.say("ok");
  EXPECT_THAT(first.hear("ok"), HasSubstr("200 OK"));
}
TEST_F(HttpServerTest, ConnectionsCountBeforeTheirThreadComesToThem) {
  settings.max_connections = 4;
  settings.http_threads = 2;  // connections go to them in turn
  settings.body_grace_ms = 60'000;
  std::promise<void> held, go_on;
  Route route;
  route.method = "GET";
  route.pattern = "/hold";
  route.body = BodyPolicy::kNone;
  route.handler = [&](Call&) -> Task<Response> {
    held.set_value();
    go_on.get_future().wait();
    co_return json_response(200, "{}");
  };
  routes.add(std::move(route));
  start();
  const std::string busy = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
  const Client first(server->port());
  first.say(busy);
  EXPECT_THAT(first.hear("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  const Client second(server->port());
  second.say("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
  held.get_future().wait();
  const Client third(server->port());
  third.say(busy);
  EXPECT_THAT(third.hear("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  const Client fourth(server->port());  // its thread is held up
  const Client fifth(server->port());
  fifth.say(busy);
  EXPECT_THAT(fifth.hear("\r\n\r\n"), StartsWith("HTTP/1.1 503 "));
  go_on.set_value();
  EXPECT_THAT(second.hear("{}"), HasSubstr("200 OK"));
  first.say("ok");
  EXPECT_THAT(first.hear("ok"), HasSubstr("200 OK"));
  third.say("ok");
  EXPECT_THAT(third.hear("ok"), HasSubstr("200 OK"));
  EXPECT_TRUE(server->drain(std::chrono::seconds(10)));
  EXPECT_EQ(metrics().connections.Value(), 0) << "each was given back, and once";
}
TEST_F(HttpServerTest, TheLongestIdleConnectionMakesRoomForAnother) {
  settings.max_connections = 2;
  settings.http_threads = 2;
  start();
  const std::string request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
  const Client longest(server->port());
  longest.say(request);
  EXPECT_THAT(longest.hear("ok"), HasSubstr("200 OK"));
  const Client shorter(server->port());
  shorter.say(request);
  EXPECT_THAT(shorter.hear("\r\n\r\nok"), HasSubstr("200 OK"));
  const Client third(server->port());
  third.say(request);
  EXPECT_THAT(third.hear("\r\n\r\nok"), HasSubstr("200 OK"));
  EXPECT_EQ(longest.hear(), "");
  shorter.say(request);
  EXPECT_THAT(shorter.hear("\r\n\r\nok"), HasSubstr("200 OK"));
}
TEST_F(HttpServerTest, ConnectionsStayWithinTheDescriptors) {
  EXPECT_EQ(connection_limit(4096, 1 << 20), 4096);
  EXPECT_EQ(connection_limit(4096, 1024), 704);
  EXPECT_EQ(connection_limit(4096, 100), 50);
  EXPECT_EQ(connection_limit(4096, 0), 1);
}
TEST_F(HttpServerTest, WithoutADescriptorLeftNewConnectionsAreToldSo) {
  start();
  std::vector<int> clients;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(server->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 3; ++i) clients.push_back(socket(AF_INET, SOCK_STREAM, 0));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = static_cast<rlim_t>(clients.front()), .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (const int client : clients) {
    const timeval most{.tv_sec = 10, .tv_usec = 0};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    ASSERT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    char bytes[64] = {};
    EXPECT_GT(recv(client, bytes, sizeof bytes - 1, 0), 0);
    EXPECT_THAT(bytes, StartsWith("HTTP/1.1 503 "));
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const int client : clients) close(client);
  // The loop that refuses may still be taking the next one.
  std::string heard;
  for (int i = 0; i < 100 && !heard.starts_with("HTTP/1.1 200 "); ++i)
    heard = ask("GET /host HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(heard, StartsWith("HTTP/1.1 200 "));
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
TEST_F(HttpServerTest, ABodyThatIsStreamedCountsWithThePieceInHand) {
  settings.max_buffered_bytes = 400 << 10;  // room for one
  settings.body_grace_ms = 60'000;
  start();
  const Client first(server->port());
  first.say("PUT /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_THAT(first.hear("\r\n\r\n"), StartsWith("HTTP/1.1 100 "));
  const std::string other = "PUT /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
  EXPECT_THAT(ask(other), testing::AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("Retry-After: ")));
  first.say("ok");
  EXPECT_THAT(first.hear("\r\n\r\n2"), HasSubstr("200 OK"));
  EXPECT_THAT(ask(other), StartsWith("HTTP/1.1 200 "));
}
// Clients that ask for large answers and do not read them must not take all memory.
TEST_F(HttpServerTest, AnswersThatAreNotReadCountUntilTheyAre) {
  constexpr std::size_t kBytes = 16 << 20;  // more than any socket buffers
  settings.max_buffered_bytes = kBytes * 3 / 2;
  Route route;
  route.method = "GET";
  route.pattern = "/large";
  route.body = BodyPolicy::kNone;
  route.handler = [&](Call& call) -> Task<Response> {
    if (auto taken = call.memory.take(kBytes); !taken)
      co_return error_response(taken.error(), Dialect::kPlain, call.request);
    co_return json_response(200, std::string(kBytes, 'x'));
  };
  routes.add(std::move(route));
  const std::string question = "GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  start();
  const Client slow(server->port());
  slow.say(question);
  EXPECT_THAT(slow.hear("\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(ask(question), testing::AllOf(StartsWith("HTTP/1.1 503 "), HasSubstr("Retry-After: ")));
  EXPECT_GT(slow.hear().size(), kBytes / 2);
  EXPECT_THAT(ask(question), StartsWith("HTTP/1.1 200 "));
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
TEST_F(HttpServerTest, OneThatLeavesStillAcceptsAndEndsEachConnectionWithItsAnswer) {
  const std::string request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok";
  start();
  const Client old(server->port());
  old.say(request);
  EXPECT_THAT(old.hear("\r\n\r\nok"), Not(HasSubstr("Connection: close")));
  server->leave();
  const Client fresh(server->port());
  for (const Client* client : {&old, &fresh}) {
    client->say(request);
    const auto answer = client->hear("\r\n\r\nok");
    EXPECT_THAT(answer, HasSubstr("200 OK"));
    EXPECT_THAT(answer, HasSubstr("Connection: close"));
    EXPECT_EQ(client->hear(""), "");
  }
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

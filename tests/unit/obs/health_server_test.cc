#include "lib/obs/health_server.h"

#include <curl/curl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <prometheus/counter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "lib/base/readings.h"
#include "lib/obs/metrics.h"

namespace slipway::obs {
namespace {

struct Answer {
  long status = 0;
  std::string body;
};

Answer get(int port, const std::string& path, const char* method = "GET") {
  Answer answer;
  CURL* curl = curl_easy_init();
  curl_easy_setopt(curl, CURLOPT_URL, std::format("http://127.0.0.1:{}{}", port, path).c_str());
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
  curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer.body);
  curl_easy_setopt(
      curl, CURLOPT_WRITEFUNCTION, +[](char* data, std::size_t, std::size_t size, std::string* body) {
        body->append(data, size);
        return size;
      });
  EXPECT_EQ(curl_easy_perform(curl), CURLE_OK);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  curl_easy_cleanup(curl);
  return answer;
}

TEST(HealthServer, ShowsMetricsHealthAndReadiness) {
  std::atomic<bool> ready = false;
  prometheus::BuildCounter().Name("slipway_test_things_total").Register(metrics()).Add({}).Increment(3);
  const auto server = HealthServer::start("127.0.0.1", 0, [&] { return ready ? "" : "no registry"; });
  ASSERT_TRUE(server) << server.error().message;
  const int port = (*server)->port();
  ASSERT_GT(port, 0);

  const auto text = get(port, "/metrics");
  EXPECT_EQ(text.status, 200);
  EXPECT_NE(text.body.find("slipway_test_things_total 3"), std::string::npos) << text.body;
  EXPECT_EQ(get(port, "/healthz").status, 200);

  EXPECT_EQ(get(port, "/readyz").status, 503);
  EXPECT_EQ(get(port, "/readyz").body, "not ready: no registry\n");
  ready = true;
  EXPECT_EQ(get(port, "/readyz").status, 200);

  EXPECT_EQ(get(port, "/other").status, 404);
  EXPECT_EQ(get(port, "/metricsx").status, 404);
  EXPECT_EQ(get(port, "/healthz", "DELETE").status, 405);
}

TEST(HealthServer, ShowsAutoscalersTheirSignals) {
  const auto server = HealthServer::start(
      "127.0.0.1", 0, [] { return ""; },
      [] { return std::map<std::string, std::map<std::string, std::int64_t>>{{"jobs", {{"outstanding", 3}}}}; });
  ASSERT_TRUE(server);
  EXPECT_EQ(get((*server)->port(), "/autoscaling").body, "{\"jobs\":{\"outstanding\":3}}\n");
  EXPECT_EQ(get((*server)->port(), "/autoscaling", "POST").status, 405);

  const auto without = HealthServer::start("127.0.0.1", 0, [] { return ""; });
  ASSERT_TRUE(without);
  EXPECT_EQ(get((*without)->port(), "/autoscaling").status, 404);
}

TEST(HealthServer, ShowsTheReadingsOfOtherRooms) {
  const Reading counter("slipway_test_read_total", "Help.", [] { return 5; });
  const Reading gauge("slipway_test_level", "Help.", [] { return 6; });
  const auto server = HealthServer::start("127.0.0.1", 0, [] { return ""; });
  ASSERT_TRUE(server);
  const auto text = get((*server)->port(), "/metrics").body;
  EXPECT_NE(text.find("# TYPE slipway_test_read_total counter\nslipway_test_read_total 5"), std::string::npos) << text;
  EXPECT_NE(text.find("# TYPE slipway_test_level gauge\nslipway_test_level 6"), std::string::npos) << text;
}

TEST(HealthServer, AnswersAFaultWith500AndGoesOn) {
  std::atomic<bool> faulty = true;
  const Reading reading("slipway_test_faulty", "Help.", [&]() -> std::uint64_t {
    if (faulty) throw std::runtime_error("no reading");
    return 1;
  });
  const auto server = HealthServer::start("127.0.0.1", 0, [&]() -> std::string {
    if (faulty) throw 42;
    return "";
  });
  ASSERT_TRUE(server);
  EXPECT_EQ(get((*server)->port(), "/metrics").status, 500);
  EXPECT_EQ(get((*server)->port(), "/readyz").status, 500);
  EXPECT_EQ(get((*server)->port(), "/readyz").body, "this could not be found out; the log says why\n");
  faulty = false;
  const auto metrics = get((*server)->port(), "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_NE(metrics.body.find("slipway_health_faults_total 3\n"), std::string::npos) << metrics.body;
  EXPECT_EQ(get((*server)->port(), "/readyz").status, 200);
}

// A probe that gets no answer has a healthy process killed.
TEST(HealthServer, AnswersWhileManyRequestsAreUnfinished) {
  const auto server = HealthServer::start("127.0.0.1", 0, [] { return ""; });
  ASSERT_TRUE(server);
  std::vector<int> sockets;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<std::uint16_t>((*server)->port()));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 40; ++i) {
    sockets.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(sockets.back(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
    ASSERT_GT(::send(sockets.back(), "GET /healthz HTTP/1.1\r\n", 23, 0), 0);
  }
  EXPECT_EQ(get((*server)->port(), "/healthz").status, 200);
  for (const int socket : sockets) ::close(socket);
}

TEST(HealthServer, SaysWhenThePortIsTaken) {
  const auto first = HealthServer::start("127.0.0.1", 0, [] { return ""; });
  ASSERT_TRUE(first);
  const auto second = HealthServer::start("127.0.0.1", (*first)->port(), [] { return ""; });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::obs

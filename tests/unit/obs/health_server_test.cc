#include "lib/obs/health_server.h"

#include <curl/curl.h>
#include <gtest/gtest.h>
#include <prometheus/counter.h>

#include <atomic>

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

TEST(HealthServer, SaysWhenThePortIsTaken) {
  const auto first = HealthServer::start("127.0.0.1", 0, [] { return ""; });
  ASSERT_TRUE(first);
  const auto second = HealthServer::start("127.0.0.1", (*first)->port(), [] { return ""; });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::obs

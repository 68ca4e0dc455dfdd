#include "lib/obs/health_server.h"

#include <civetweb.h>
#include <netdb.h>
#include <prometheus/text_serializer.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <format>
#include <sstream>
#include <thread>

#include "lib/base/endpoint.h"
#include "lib/base/log.h"
#include "lib/base/readings.h"
#include "lib/obs/metrics.h"

namespace slipway::obs {
namespace {

int answer(mg_connection* connection, int status, const char* type, const std::string& body) {
  mg_printf(connection, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
            status, mg_get_response_code_text(connection, status), type, body.size());
  mg_write(connection, body.data(), body.size());
  return status;
}

bool is_read(const mg_connection* connection) {
  const std::string_view method = mg_get_request_info(connection)->request_method;
  return method == "GET" || method == "HEAD";
}

int on_metrics(mg_connection* connection, void*) {
  if (!is_read(connection)) return answer(connection, 405, "text/plain", "wanted GET\n");
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, collect());
  return answer(connection, 200, "text/plain; version=0.0.4; charset=utf-8", text.str());
}

int on_health(mg_connection* connection, void*) {
  if (!is_read(connection)) return answer(connection, 405, "text/plain", "wanted GET\n");
  return answer(connection, 200, "text/plain", "ok\n");
}

int on_ready(mg_connection* connection, void* ready) {
  if (!is_read(connection)) return answer(connection, 405, "text/plain", "wanted GET\n");
  const std::string reason = (*static_cast<const Readiness*>(ready))();
  return reason.empty() ? answer(connection, 200, "text/plain", "ready\n")
                        : answer(connection, 503, "text/plain", "not ready: " + reason + "\n");
}

int on_autoscaling(mg_connection* connection, void* signals) {
  if (!is_read(connection)) return answer(connection, 405, "text/plain", "wanted GET\n");
  boost::json::object body;
  for (const auto& [subject, numbers] : (*static_cast<const Signals*>(signals))()) {
    auto& shown = body[subject].emplace_object();
    for (const auto& [name, value] : numbers) shown[name] = value;
  }
  return answer(connection, 200, "application/json", boost::json::serialize(body) + "\n");
}

std::atomic<std::uint64_t> faults{0};

// CivetWeb is C: an exception that came to it would end the process.
template <mg_request_handler Handler>
int guarded(mg_connection* connection, void* data) {
  try {
    return Handler(connection, data);
  } catch (const std::exception& failure) {
    ++faults;
    spdlog::error("health request failed path={} message={}", log_value(mg_get_request_info(connection)->local_uri),
                  log_value(failure.what()));
  } catch (...) {
    ++faults;
    spdlog::error("health request failed path={}", log_value(mg_get_request_info(connection)->local_uri));
  }
  return answer(connection, 500, "text/plain", "this could not be found out; the log says why\n");
}

int on_other(mg_connection* connection, void*) {
  return answer(connection, 404, "text/plain", "here are /metrics, /healthz and /readyz\n");
}

}  // namespace

struct HealthServer::Impl {
  Readiness ready;
  Signals signals;
  mg_context* context = nullptr;
  int port = 0;
  std::string address;
  ~Impl() {
    if (context == nullptr) return;
    // CivetWeb notices that it should stop when its poll returns, which takes two seconds unless somebody knocks.
    std::jthread stopper([this] { mg_stop(context); });
    std::atomic<bool> stopped = false;
    std::jthread knocker([&, this] {
      for (int i = 0; i < 200 && !stopped; ++i) {
        knock();
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
    stopper.join();
    stopped = true;
  }
  void knock() const {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* to = nullptr;
    if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &to) != 0) return;
    const int socket = ::socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (socket >= 0) {
      [[maybe_unused]] const int started = ::connect(socket, to->ai_addr, to->ai_addrlen);
      ::close(socket);
    }
    freeaddrinfo(to);
  }
};

HealthServer::HealthServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HealthServer::~HealthServer() = default;
int HealthServer::port() const { return impl_->port; }

Result<std::unique_ptr<HealthServer>> HealthServer::start(const std::string& address, int port, Readiness ready,
                                                          Signals signals) {
  static const Reading counted("slipway_health_faults_total", "Requests to this port whose handler threw.",
                               [] { return static_cast<double>(faults); });
  auto impl = std::make_unique<Impl>();
  impl->ready = std::move(ready);
  impl->signals = std::move(signals);
  impl->address = without_brackets(address);
  if (impl->address == "0.0.0.0") impl->address = "127.0.0.1";
  if (impl->address == "::") impl->address = "::1";
  const std::string where = endpoint(address, port);
  std::array options{"listening_ports", where.c_str(),
                     // Requests that never end hold a thread each until their time is up: even dozens of them keep
                     // the next one waiting for a second or two, which a liveness probe forgives.
                     "num_threads", "4", "connection_queue", "256", "request_timeout_ms", "500", "enable_keep_alive",
                     "no", "enable_directory_listing", "no", static_cast<const char*>(nullptr)};
  const mg_callbacks callbacks{};
  impl->context = mg_start(&callbacks, nullptr, options.data());
  if (impl->context == nullptr) return fail(Code::kUnavailable, std::format("cannot bind the metrics port {}", where));
  std::array<mg_server_port, 4> ports{};
  if (mg_get_server_ports(impl->context, ports.size(), ports.data()) > 0) impl->port = ports[0].port;
  mg_set_request_handler(impl->context, "/metrics$", guarded<on_metrics>, nullptr);
  mg_set_request_handler(impl->context, "/healthz$", guarded<on_health>, nullptr);
  mg_set_request_handler(impl->context, "/readyz$", guarded<on_ready>, &impl->ready);
  if (impl->signals) mg_set_request_handler(impl->context, "/autoscaling$", guarded<on_autoscaling>, &impl->signals);
  mg_set_request_handler(impl->context, "/", guarded<on_other>, nullptr);
  return std::unique_ptr<HealthServer>(new HealthServer(std::move(impl)));
}

}  // namespace slipway::obs

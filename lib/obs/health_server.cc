#include "lib/obs/health_server.h"

#include <civetweb.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <format>
#include <sstream>

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
  prometheus::TextSerializer().Serialize(text, metrics().Collect());
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

int on_other(mg_connection* connection, void*) {
  return answer(connection, 404, "text/plain", "here are /metrics, /healthz and /readyz\n");
}

}  // namespace

struct HealthServer::Impl {
  Readiness ready;
  mg_context* context = nullptr;
  int port = 0;
  ~Impl() {
    if (context != nullptr) mg_stop(context);
  }
};

HealthServer::HealthServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HealthServer::~HealthServer() = default;
int HealthServer::port() const { return impl_->port; }

Result<std::unique_ptr<HealthServer>> HealthServer::start(const std::string& address, int port, Readiness ready) {
  auto impl = std::make_unique<Impl>();
  impl->ready = std::move(ready);
  const std::string where = std::format("{}:{}", address, port);
  std::array options{"listening_ports",
                     where.c_str(),
                     "num_threads",
                     "2",
                     "request_timeout_ms",
                     "5000",
                     "enable_keep_alive",
                     "no",
                     "enable_directory_listing",
                     "no",
                     static_cast<const char*>(nullptr)};
  const mg_callbacks callbacks{};
  impl->context = mg_start(&callbacks, nullptr, options.data());
  if (impl->context == nullptr) return fail(Code::kUnavailable, std::format("cannot bind the metrics port {}", where));
  std::array<mg_server_port, 4> ports{};
  if (mg_get_server_ports(impl->context, ports.size(), ports.data()) > 0) impl->port = ports[0].port;
  mg_set_request_handler(impl->context, "/metrics$", on_metrics, nullptr);
  mg_set_request_handler(impl->context, "/healthz$", on_health, nullptr);
  mg_set_request_handler(impl->context, "/readyz$", on_ready, &impl->ready);
  mg_set_request_handler(impl->context, "/", on_other, nullptr);
  return std::unique_ptr<HealthServer>(new HealthServer(std::move(impl)));
}

}  // namespace slipway::obs

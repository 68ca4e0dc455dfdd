#include "services/gateway/http_server.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "lib/base/endpoint.h"
#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "services/gateway/http_connection.h"
#include "services/gateway/metrics.h"

namespace slipway::gateway {
namespace {

using boost::system::error_code;

// One thread and the connections it serves.
struct Lane {
  asio::io_context context{1};
  asio::executor_work_guard<Executor> work{context.get_executor()};
  std::set<std::weak_ptr<HttpConnection>, std::owner_less<>> connections;  // this thread only
  IdleConnections idle;
  std::thread thread;
};

constexpr int kMostRefusals = 64;  // connections that are being refused in full, at once

// A descriptor that is given up to take in, and refuse, a connection when there is no other.
int open_spare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

// What a handler throws is lost, the thread and its other connections are not.
void run_to_the_end(asio::io_context& context) {
  while (true) {
    try {
      context.run();
      return;
    } catch (const std::exception& error) {
      metrics().handler_failures.Increment();
      spdlog::error("http thread's handler failed message={}", log_value(error.what()));
    }
  }
}

void refuse_at_once(asio::basic_stream_socket<tcp, Executor> socket) {
  static constexpr std::string_view kAnswer =
      "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";
  metrics().connections_refused.Increment();
  error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(kAnswer), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
  socket.close(ignored);
}

}  // namespace

int connection_limit(int wanted, std::uint64_t descriptors) {
  // Workers, calls to the registry, the metrics port, files; and those who are being refused.
  constexpr std::uint64_t kOthers = 256 + kMostRefusals;
  const std::uint64_t room = descriptors > 2 * kOthers ? descriptors - kOthers : descriptors / 2;
  return static_cast<int>(
      std::min<std::uint64_t>(static_cast<std::uint64_t>(wanted), std::max<std::uint64_t>(room, 1)));
}

struct HttpServer::Impl {
  Impl(const std::string& address, const Settings& limits, const RouteTable& table)
      : shared{.settings = limits,
               .routes = table,
               .origins = OriginGate(address, limits.allowed_hosts, limits.allowed_origins),
               .max_connections = connection_limit(limits.max_connections, descriptor_limit()),
               .memory = MemoryBudget(limits.max_buffered_bytes)},
        spare(open_spare()) {}
  ~Impl() {
    if (spare >= 0) close(spare);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  ConnectionShared shared;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::optional<asio::basic_socket_acceptor<tcp, Executor>> acceptor;  // on the first lane
  int port = 0;
  int spare;

  static Task<void> serve(std::shared_ptr<HttpConnection> connection, Lane* lane, bool refused) {
    const std::weak_ptr<HttpConnection> weak = connection;
    lane->connections.insert(weak);
    co_await (refused ? connection->refuse() : connection->run());
    lane->connections.erase(weak);
  }

  Task<void> accept_loop() {
    std::size_t next = 0;
    while (acceptor->is_open()) {
      Lane* lane = lanes[next++ % lanes.size()].get();
      error_code ec;
      auto socket = co_await acceptor->async_accept(lane->context.get_executor(), asio::redirect_error(kUseTask, ec));
      if (ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor) co_return;
      if (ec) {
        // Out of descriptors, most likely: breathe, or this loop eats the core.
        spdlog::warn("cannot accept message={}", log_value(ec.message()));
        refuse_with_spare();
        asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>
            pause(lanes.front()->context.get_executor(), std::chrono::milliseconds(100));
        co_await pause.async_wait(asio::redirect_error(kUseTask, ec));
        continue;
      }
      try {
        begin(lane, std::move(socket));
      } catch (const std::exception& error) {
        metrics().handler_failures.Increment();
        spdlog::error("connection not begun message={}", log_value(error.what()));
      }
    }
  }

  // Those who wait in the listener's queue would wait for ever: they are taken in one at a time and told.
  void refuse_with_spare() {
    if (spare >= 0) ::close(std::exchange(spare, -1));
    error_code ec;
    acceptor->non_blocking(true, ec);
    for (int i = 0; i < kMostRefusals && !ec; ++i) {
      asio::basic_stream_socket<tcp, Executor> socket(lanes.front()->context.get_executor());
      acceptor->accept(socket, ec);
      if (!ec) refuse_at_once(std::move(socket));
    }
    spare = open_spare();
  }

  void begin(Lane* lane, asio::basic_stream_socket<tcp, Executor> socket) {
    const bool full = shared.open >= shared.max_connections;
    if (full) {
      if (shared.open >= shared.max_connections + kMostRefusals) return refuse_at_once(std::move(socket));
      // To the thread where somebody has waited longest, and is closed for it.
      lane = std::ranges::min_element(lanes, {}, [](const auto& one) { return one->idle.oldest(); })->get();
      error_code ec;
      const auto protocol = socket.local_endpoint(ec).protocol();
      const auto handle = ec ? -1 : socket.release(ec);
      if (ec) return;
      socket = asio::basic_stream_socket<tcp, Executor>(lane->context.get_executor(), protocol, handle);
    }
    // Counted here: its thread may come to it only after many more have been accepted.
    ConnectionPlace place(shared);
    // The last reference may go on either thread until serve() has it, but the socket is touched on its lane's only.
    asio::post(lane->context, [this, lane, full, kept = std::move(socket), place = std::move(place)]() mutable {
      const bool refused = full && !lane->idle.close_longest();
      auto connection = std::make_shared<HttpConnection>(Stream(std::move(kept)), shared, std::move(place), lane->idle);
      asio::co_spawn(lane->context, serve(std::move(connection), lane, refused), asio::detached);
    });
  }

  // Closes the listener once nobody waits in its queue: the system would reset those.
  void close_listener() {
    error_code ec;
    acceptor->cancel(ec);
    acceptor->non_blocking(true, ec);
    while (!ec) {
      asio::basic_stream_socket<tcp, Executor> socket(lanes.front()->context.get_executor());
      acceptor->accept(socket, ec);
      if (!ec) begin(lanes.front().get(), std::move(socket));
    }
    acceptor->close(ec);
  }

  void each_connection(void (HttpConnection::*action)()) {
    for (auto& lane : lanes) {
      asio::post(lane->context, [lane = lane.get(), action] {
        const auto all = lane->connections;
        for (const auto& weak : all) {
          if (const auto connection = weak.lock()) ((*connection).*action)();
        }
      });
    }
  }
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const std::string& address, int port, const Settings& settings,
                                                      const RouteTable& routes) {
  auto impl = std::make_unique<Impl>(address, settings, routes);
  if (impl->shared.max_connections < settings.max_connections) {
    spdlog::warn("connections limited by the descriptors that may be open max_connections={} wanted={}",
                 impl->shared.max_connections, settings.max_connections);
  }
  const int threads = settings.http_threads > 0 ? settings.http_threads : std::min(usable_cores(), 4);
  for (int i = 0; i < threads; ++i) impl->lanes.push_back(std::make_unique<Lane>());

  error_code ec;
  const auto literal = asio::ip::make_address(without_brackets(address), ec);
  if (ec || port < 0 || port > 65535)
    return fail(Code::kInvalidArgument,
                std::format("cannot listen on {}: not an address", slipway::endpoint(address, port)));
  const tcp::endpoint endpoint(literal, static_cast<unsigned short>(port));
  auto& acceptor = impl->acceptor.emplace(impl->lanes.front()->context.get_executor());
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(1024, ec);
  if (ec)
    return fail(Code::kUnavailable,
                std::format("cannot listen on {}: {}", slipway::endpoint(address, port), ec.message()));
  impl->port = acceptor.local_endpoint().port();

  asio::co_spawn(impl->lanes.front()->context, impl->accept_loop(), asio::detached);
  for (auto& lane : impl->lanes) {
    lane->thread = std::thread([context = &lane->context] { run_to_the_end(*context); });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

int HttpServer::port() const { return impl_->port; }

void HttpServer::leave() { impl_->shared.leaving = true; }

void HttpServer::set_max_buffered_bytes(std::uint64_t bytes) { impl_->shared.memory.set_limit(bytes); }

bool HttpServer::drain(std::chrono::milliseconds deadline) {
  leave();
  impl_->shared.draining = true;
  asio::post(impl_->lanes.front()->context, [impl = impl_.get()] {
    if (impl->acceptor->is_open()) impl->close_listener();
  });
  impl_->each_connection(&HttpConnection::drain);
  const auto until = std::chrono::steady_clock::now() + deadline;
  while (impl_->shared.open > 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return impl_->shared.open == 0;
}

HttpServer::~HttpServer() {
  drain(std::chrono::milliseconds(0));
  impl_->each_connection(&HttpConnection::abort);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (impl_->shared.open > 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (auto& lane : impl_->lanes) {
    lane->work.reset();
    lane->context.stop();
    lane->thread.join();
  }
  if (impl_->shared.open > 0) {
    // Their coroutines wait for somebody who holds on to them and may let go later: their threads' contexts must be
    // there then, so they stay until the process ends.
    spdlog::error("connections left behind count={}", impl_->shared.open.load());
    static auto& left_behind = *new std::vector<std::unique_ptr<Impl>>();  // never destroyed, and no leak either
    left_behind.push_back(std::move(impl_));
  }
}

}  // namespace slipway::gateway

#include "services/gateway/http_connection.h"

#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/write.hpp>

#include "lib/base/log.h"
#include "lib/base/random_id.h"
#include "services/gateway/metrics.h"
#include "services/gateway/problem.h"
#include "services/gateway/response_head.h"

namespace slipway::gateway {
namespace {

namespace http = beast::http;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;

constexpr std::size_t kBufferBytes = 64 << 10;  // read at once while a body comes in
constexpr std::size_t kHeaderBytes = 8 << 10;   // read at once before
constexpr std::size_t kIdleBytes = 16 << 10;    // buffers up to this are kept between requests
constexpr auto kFirstRequestGrace = std::chrono::milliseconds(250);
constexpr std::size_t kPartBytes = 256 << 10;
constexpr std::size_t kJoinedBytes = 16 << 10;  // a body up to this goes out in one write with its header
constexpr std::int64_t kBodyBytesPerSecond = 8 << 10;

// One request being handled, however it ends.
class InFlight {
 public:
  InFlight() { metrics().inflight.Increment(); }
  ~InFlight() { metrics().inflight.Decrement(); }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
};

// What a browser is told before it lets a page of an allowed origin ask.
Response preflight(const Request& request) {
  Response response;
  response.status = 204;
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE");
  const std::string_view wanted = request.header("Access-Control-Request-Headers");
  if (!wanted.empty()) response.headers.emplace_back("Access-Control-Allow-Headers", wanted);
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  return response;
}

}  // namespace

void IdleConnections::note_oldest() {
  oldest_.store(idle_.empty() ? kNone : idle_.front().since.time_since_epoch().count(), std::memory_order_relaxed);
}

void IdleConnections::add(Node& node) {
  node.front().since = Clock::now();
  idle_.splice(idle_.end(), node);
  note_oldest();
}

void IdleConnections::remove(Node& node, Node::iterator entry) {
  node.splice(node.end(), idle_, entry);
  note_oldest();
}

bool IdleConnections::close_longest() {
  if (idle_.empty()) return false;
  idle_.front().connection->displace();
  return true;
}

ConnectionPlace::ConnectionPlace(ConnectionShared& shared) : shared_(&shared) {
  ++shared_->open;
  metrics().connections.Increment();
}

ConnectionPlace::~ConnectionPlace() {
  if (shared_ == nullptr) return;
  metrics().connections.Decrement();
  --shared_->open;
}

HttpConnection::HttpConnection(Stream stream, ConnectionShared& shared, ConnectionPlace place, IdleConnections& idle)
    : place_(std::move(place)),
      stream_(std::move(stream)),
      shared_(shared),
      buffer_(kPartBytes),
      idle_connections_(idle),
      node_{IdleConnections::Entry{.connection = this}},
      entry_(node_.begin()),
      part_memory_(shared.memory) {}

HttpConnection::~HttpConnection() {
  leave_idle();
  metrics().connection_buffers.Decrement(static_cast<double>(counted_bytes_));
}

Task<void> HttpConnection::run() {
  const auto self = shared_from_this();
  try {
    error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    co_await serve();
  } catch (const std::exception& error) {
    metrics().handler_failures.Increment();
    // Asio and Beast throw on what no peer can cause; the connection is lost, the process is not.
    spdlog::error("connection failed message={}", log_value(error.what()));
  }
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
  stream_.close();
}

Task<void> HttpConnection::refuse() {
  const auto self = shared_from_this();
  metrics().connections_refused.Increment();
  Response response =
      error_response(Error{.code = Code::kOverloaded,
                           .message = std::format("more than {} connections are open", shared_.max_connections),
                           .path = {}},
                     Dialect::kOwn, Request{});
  closing_ = true;
  try {
    co_await send(response, Request{}, false);
    co_await linger();
  } catch (const std::exception& error) {
    metrics().handler_failures.Increment();
    spdlog::error("connection failed message={}", log_value(error.what()));
  }
  stream_.close();
}

void HttpConnection::drain() {
  closing_ = true;
  if (!idle_) return;
  if (served_) return stream_.cancel();
  // Whoever connected before the listener closed has a request on the way: hear it.
  const auto pause = std::make_shared<
      asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>>(
      stream_.get_executor(), kFirstRequestGrace);
  pause->async_wait([weak = weak_from_this(), pause](error_code) {
    if (const auto self = weak.lock(); self && self->idle_) self->stream_.cancel();
  });
}

void HttpConnection::displace() {
  leave_idle();
  closing_ = true;
  metrics().connections_displaced.Increment();
  stream_.cancel();
}

void HttpConnection::enter_idle() {
  idle_ = true;
  parser_.reset();
  if (buffer_.capacity() > kIdleBytes) buffer_.shrink_to_fit();
  if (head_.capacity() > kIdleBytes / 4) head_ = std::string();
  count_buffer();
  idle_connections_.add(node_);
}

void HttpConnection::leave_idle() {
  idle_ = false;
  if (node_.empty()) idle_connections_.remove(node_, entry_);
}

void HttpConnection::count_buffer() {
  const std::size_t held = buffer_.capacity();
  if (held == counted_bytes_) return;
  metrics().connection_buffers.Increment(static_cast<double>(held) - static_cast<double>(counted_bytes_));
  counted_bytes_ = held;
}

void HttpConnection::abort() {
  closing_ = true;
  stream_.close();
}

Task<void> HttpConnection::serve() {
  do {
    if (!co_await serve_one()) co_return;
  } while (!closing_ && !shared_.draining);
}

// Bytes up to the end of a header in `buffer_`: true; a clean end of the connection before a first byte: false.
Task<Result<bool>> HttpConnection::read_header() {
  bool begun = buffer_.size() > 0;
  if (!begun) enter_idle();
  stream_.expires_after(begun ? shared_.settings.header_timeout() : shared_.settings.idle_timeout());
  while (true) {
    const auto bytes = buffer_.cdata();
    auto end = header_end({static_cast<const char*>(bytes.data()), bytes.size()}, limits_);
    if (!end) co_return std::unexpected(end.error());
    if (*end > 0) {
      served_ = true;
      co_return true;
    }
    error_code ec;
    const std::size_t got =
        co_await stream_.async_read_some(buffer_.prepare(kHeaderBytes), asio::redirect_error(kUseTask, ec));
    leave_idle();
    if (ec == beast::error::timeout && begun) {
      co_return fail(Code::kDeadlineExceeded, "the request's header did not arrive in time");
    }
    if (ec) co_return false;
    buffer_.commit(got);
    if (!begun) {
      begun = true;
      stream_.expires_after(shared_.settings.header_timeout());  // once: the whole header's deadline
    }
  }
}

Result<Request> HttpConnection::parse_request(std::size_t header_bytes) {
  const std::string_view raw(static_cast<const char*>(buffer_.cdata().data()), header_bytes);
  if (auto checked = check_header(raw, limits_); !checked) return std::unexpected(checked.error());

  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(limits_.max_header_bytes + 1));
  parser_->body_limit(boost::none);  // counted in next(): what the limit is depends on the route
  error_code ec;
  const std::size_t used = parser_->put(asio::buffer(raw.data(), raw.size()), ec);
  if ((ec && ec != http::error::need_more) || !parser_->is_header_done()) {
    return fail(Code::kInvalidArgument,
                std::format("not a request: {}", ec ? ec.message() : "the header is incomplete"));
  }
  buffer_.consume(used);

  Request request;
  const auto& message = parser_->get();
  request.method = message.method_string();
  request.target = message.target();
  const TargetParts parts = split_target(request.target);
  request.path = parts.path;
  request.query = parts.query;
  header_fields_ = 0;
  for (const auto& field : message) {
    request.headers.emplace_back(field.name_string(), field.value());
    ++header_fields_;
  }
  request.host = parts.host.empty() ? request.header("Host") : parts.host;
  const std::string_view given = request.header("X-Request-Id");
  request.id = clean_request_id(given) ? std::string(given) : random_hex(64);
  return request;
}

Task<bool> HttpConnection::serve_one() {
  auto ready = co_await read_header();
  Request request;
  if (ready && !*ready) co_return false;
  const auto started = Clock::now();
  if (ready) {
    const std::string_view bytes(static_cast<const char*>(buffer_.cdata().data()), buffer_.size());
    auto parsed = parse_request(*header_end(bytes, limits_));
    if (parsed)
      request = std::move(*parsed);
    else
      ready = std::unexpected(parsed.error());
  }
  if (!ready) {
    metrics().requests_refused.Increment();
    request.id = random_hex(64);
    const Error& error = ready.error();
    const int status = error.code == Code::kDeadlineExceeded ? 408
                       : error.code == Code::kTooLarge       ? 431
                       : error.code == Code::kUnsupported    ? 501
                                                             : 400;
    spdlog::info("request refused id={} status={} message={}", request.id, status, log_value(error.message));
    Response response = error_response(status, error, Dialect::kPlain, request);
    co_await send(response, request, false);
    co_await linger();
    co_return false;
  }

  bool keep = parser_->keep_alive();
  const bool old = parser_->get().version() == 10;
  const std::string_view expectation = request.header("Expect");
  expects_continue_ = !old && equals_ignoring_case(expectation, "100-continue");
  body_bytes_ = 0;
  body_broken_ = false;
  body_allowance_ = std::chrono::milliseconds(shared_.settings.body_grace_ms);
  chunk_gate_.reset();
  chunk_error_.reset();
  if (parser_->chunked()) chunk_gate_.emplace(limits_);

  auto match = shared_.routes.find(request.method, request.path);
  const Dialect dialect = match.route != nullptr ? match.route->dialect : dialect_of(request.path);
  Call call{.request = std::move(request),
            .params = std::move(match.params),
            .body = {},
            .reader = this,
            .client = this,
            .memory = MemoryShare(shared_.memory)};
  const bool met = expectation.empty() || expects_continue_ || old;
  Response response = co_await answer(call, match, dialect, met);
  unwatch();

  // A body nobody read would be taken for the next request.
  const bool unread = !parser_->is_done();
  keep = keep && !unread && !body_broken_ && !response.close && !closing_ && !shared_.leaving;
  call.body = std::string();
  part_.reset();
  part_memory_.keep(0);
  // The answer alone is left, until the client has it.
  call.memory.keep(response.body.size());
  const bool sent = co_await send(response, call.request, keep);
  unwatch();
  response.body = std::string();
  call.memory.keep(0);
  const std::chrono::duration<double> took = Clock::now() - started;
  if (match.route != nullptr) {
    match.route->metrics->seconds->Observe(took.count());
    match.route->metrics->by_class[std::clamp(response.status / 100, 1, 5)]->Increment();
  }
  const auto level = match.route != nullptr && match.route->changes ? spdlog::level::info : spdlog::level::debug;
  if (spdlog::should_log(level)) {
    spdlog::log(level, "request id={} method={} path={} status={} ms={:.3f}", call.request.id, call.request.method,
                log_value(call.request.path), response.status, took.count() * 1e3);
  }
  if (!keep && sent) co_await linger();
  co_return keep&& sent;
}

Task<Response> HttpConnection::answer(Call& call, const RouteTable::Match& match, Dialect dialect,
                                      bool expectation_met) {
  const Request& request = call.request;
  if (!expectation_met) {
    co_return error_response(417,
                             Error{.code = Code::kUnsupported,
                                   .message = std::format("expectation '{}' is not met here", request.header("Expect")),
                                   .path = {}},
                             dialect, request);
  }
  if (auto own = shared_.origins.check(request); !own) {
    metrics().origins_refused.Increment();
    co_return error_response(403, own.error(), dialect, request);
  }
  const auto page = shared_.origins.allowed_origin(request);
  Response response;
  if (page && request.method == "OPTIONS" && !request.header("Access-Control-Request-Method").empty()) {
    response = preflight(request);
  } else if (match.route == nullptr) {
    const Error error =
        match.status == 405 ? Error{.code = Code::kInvalidArgument,
                                    .message = std::format("{} is not allowed on {}; allowed: {}", request.method,
                                                           request.path, match.allow),
                                    .path = {}}
        : match.status == 400
            ? Error{.code = Code::kInvalidArgument, .message = "the path has a broken % escape", .path = {}}
            : Error{
                  .code = Code::kNotFound, .message = std::format("there is nothing at {}", request.path), .path = {}};
    response = error_response(match.status, error, dialect, request);
    if (!match.allow.empty()) response.headers.emplace_back("Allow", match.allow);
  } else {
    const InFlight counted;
    response = co_await handle(call, *match.route);
  }
  if (page) {
    response.headers.emplace_back("Access-Control-Allow-Origin", *page);
    response.headers.emplace_back("Vary", "Origin");
  }
  co_return response;
}

Task<Response> HttpConnection::handle(Call& call, const Route& route) {
  body_limit_ = route.body == BodyPolicy::kStream
                    ? shared_.settings.max_upload_bytes
                    : std::min(shared_.settings.max_body_bytes, shared_.memory.limit_bytes());
  const auto length = parser_->content_length();
  if (length && *length > body_limit_) {
    co_return error_response(
        Error{.code = Code::kTooLarge,
              .message = std::format("the body has {} bytes; the limit is {} bytes", *length, body_limit_),
              .path = {}},
        route.dialect, call.request);
  }
  try {
    if (route.body != BodyPolicy::kStream) {
      auto read = co_await read_whole_body(call);
      if (!read) {
        const int status =
            read.error().code == Code::kDeadlineExceeded ? 408 : status_of(read.error().code, route.dialect);
        co_return error_response(status, read.error(), route.dialect, call.request);
      }
    }
    call.received = Clock::now();
    co_return co_await route.handler(call);
  } catch (const std::exception& error) {
    metrics().handler_failures.Increment();
    spdlog::error("request failed id={} route={} message={}", call.request.id, route.pattern, log_value(error.what()));
  }
  co_return error_response(
      Error{.code = Code::kInternal, .message = "the gateway failed at this request; its log says more", .path = {}},
      route.dialect, call.request);
}

// Straight from the connection's buffer into the call's `body`.
Task<Result<void>> HttpConnection::read_whole_body(Call& call) {
  std::string& body = call.body;
  const auto length = parser_->content_length();
  if (length) body.reserve(*length);
  std::size_t size = 0;
  while (true) {
    const std::size_t room = length ? std::clamp<std::size_t>(*length - size, 1, kPartBytes) : kPartBytes;
    body.resize_and_overwrite(size + room, [](char*, std::size_t whole) { return whole; });
    auto got = co_await read_body(std::span(body).subspan(size));
    body.resize(size + got.value_or(0));
    if (!got) {
      body_broken_ = true;
      co_return std::unexpected(got.error());
    }
    if (*got == 0) co_return Result<void>();
    if (auto taken = call.memory.take(*got); !taken) co_return taken;
    size += *got;
  }
}

Task<Result<std::span<const std::byte>>> HttpConnection::next() {
  if (!part_) {
    if (auto taken = part_memory_.take(kPartBytes); !taken) {
      body_broken_ = true;
      co_return std::unexpected(taken.error());
    }
    part_ = std::make_unique_for_overwrite<char[]>(kPartBytes);
  }
  auto got = co_await read_body({part_.get(), kPartBytes});
  if (!got) {
    // Where the next request begins is anybody's guess then.
    body_broken_ = true;
    co_return std::unexpected(got.error());
  }
  co_return std::as_bytes(std::span(part_.get(), *got));
}

// Some bytes of the body, at the start of `into`; none at its end.
Task<Result<std::size_t>> HttpConnection::read_body(std::span<char> into) {
  if (expects_continue_ && !parser_->is_done()) {
    expects_continue_ = false;
    if (buffer_.size() == 0 && !co_await write_all("HTTP/1.1 100 Continue\r\n\r\n")) {
      co_return fail(Code::kUnavailable, "the client has gone");
    }
  }
  auto on_chunk = [this](std::uint64_t, boost::core::string_view extensions, error_code& ec) {
    if (auto fine = chunk_gate_->on_chunk(extensions.size()); !fine) {
      chunk_error_ = fine.error();
      ec = http::error::bad_chunk_extension;
    }
  };
  if (chunk_gate_) parser_->on_chunk_header(on_chunk);

  while (!parser_->is_done()) {
    auto& body = parser_->get().body();
    body.data = into.data();
    body.size = into.size();
    body.more = true;
    error_code ec;
    std::size_t used = 0;
    // put() stops at each chunk's header and data, so go on while it makes progress.
    while (buffer_.size() > 0 && !parser_->is_done()) {
      const std::size_t taken = parser_->put(buffer_.cdata(), ec);
      buffer_.consume(taken);
      used += taken;
      if (ec || taken == 0) break;
    }
    const std::size_t got = into.size() - body.size;
    if (ec == http::error::need_buffer || ec == http::error::need_more) ec = {};
    if (ec) {
      co_return std::unexpected(
          chunk_error_.value_or(Error{.code = Code::kInvalidArgument,
                                      .message = std::format("the body's framing is broken: {}", ec.message()),
                                      .path = {}}));
    }
    if (chunk_gate_) {
      if (auto fine = chunk_gate_->on_bytes(used, got); !fine) co_return std::unexpected(fine.error());
      if (parser_->is_done()) {
        const auto& fields = parser_->get();
        if (static_cast<std::size_t>(std::distance(fields.begin(), fields.end())) != header_fields_) {
          co_return fail(Code::kInvalidArgument, "trailers are not taken");
        }
      }
    }
    body_bytes_ += got;
    if (body_bytes_ > body_limit_) {
      co_return fail(Code::kTooLarge, std::format("the body is larger than the limit of {} bytes", body_limit_));
    }
    if (got > 0) co_return got;
    if (parser_->is_done()) break;
    // Data is always taken, so what stays is a chunk header without an end.
    if (buffer_.size() > limits_.chunk_slack_bytes)
      co_return fail(Code::kInvalidArgument, "a chunk header is too long");

    const auto began = Clock::now();
    stream_.expires_after(body_allowance_);
    const std::size_t arrived =
        co_await stream_.async_read_some(buffer_.prepare(kBufferBytes), asio::redirect_error(kUseTask, ec));
    buffer_.commit(arrived);
    count_buffer();
    if (ec == beast::error::timeout) {
      co_return fail(Code::kDeadlineExceeded,
                     std::format("the body arrives slower than {} bytes a second", kBodyBytesPerSecond));
    }
    if (ec) co_return fail(Code::kInvalidArgument, "the connection ended in the middle of the body");
    const auto earned =
        std::chrono::nanoseconds(static_cast<std::int64_t>(arrived) * 1'000'000'000 / kBodyBytesPerSecond);
    body_allowance_ = std::min<std::chrono::nanoseconds>(body_allowance_ - (Clock::now() - began) + earned,
                                                         std::chrono::milliseconds(shared_.settings.body_grace_ms));
    if (body_allowance_.count() <= 0) body_allowance_ = std::chrono::nanoseconds(1);
  }
  co_return std::size_t{0};
}

Task<bool> HttpConnection::write_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::string_view slice = bytes.substr(0, kPartBytes);
    stream_.expires_after(shared_.settings.write_timeout());
    error_code ec;
    co_await asio::async_write(stream_, asio::buffer(slice.data(), slice.size()), asio::redirect_error(kUseTask, ec));
    if (ec) {
      closing_ = true;
      co_return false;
    }
    bytes.remove_prefix(slice.size());
  }
  co_return true;
}

Task<bool> HttpConnection::send(Response& response, const Request& request, bool keep) {
  const bool old = parser_ && parser_->get().version() == 10;
  if (response.stream && !response.stream_bytes && old) keep = false;  // no chunks there: the end is the connection's
  write_head(head_, response, request, keep, old);
  if (request.method == "HEAD") co_return co_await write_all(head_);
  if (!response.stream) {
    if (response.body.size() <= kJoinedBytes) {
      head_ += response.body;
      co_return co_await write_all(head_);
    }
    co_return co_await write_all(head_) && co_await write_all(response.body);
  }
  chunked_answer_ = !response.stream_bytes && !old;
  if (!co_await write_all(head_)) co_return false;
  co_await response.stream(*this);
  if (closing_ && !shared_.draining) co_return false;
  if (chunked_answer_) co_return co_await write_all("0\r\n\r\n");
  co_return keep;
}

Task<bool> HttpConnection::write(std::string_view bytes) {
  if (bytes.empty()) co_return !closing_ || shared_.draining;
  if (!chunked_answer_) co_return co_await write_all(bytes);
  std::string framed = std::format("{:x}\r\n", bytes.size());
  framed += bytes;
  framed += "\r\n";
  co_return co_await write_all(framed);
}

// Ends our side and reads on for a while: closing on unread bytes would reset the connection under our answer.
Task<void> HttpConnection::linger() {
  error_code ec;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ec);
  stream_.expires_after(std::chrono::seconds(5));
  while (!ec) {
    buffer_.clear();
    co_await stream_.async_read_some(buffer_.prepare(kBufferBytes), asio::redirect_error(kUseTask, ec));
  }
}

void HttpConnection::watch(std::function<void()> gone) {
  gone_ = std::make_shared<std::function<void()>>(std::move(gone));
  stream_.socket().async_wait(
      tcp::socket::wait_read, [self = shared_from_this(), mine = std::weak_ptr(gone_)](error_code ec) {
        const auto callback = mine.lock();
        if (ec || !callback || !*callback) return;
        // Readable means the next request of a pipeline, or the end.
        char byte = 0;
        const auto got = recv(self->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) return;
        self->closing_ = true;
        (*callback)();
      });
}

void HttpConnection::unwatch() {
  if (!gone_) return;
  gone_.reset();
  error_code ignored;
  stream_.socket().cancel(ignored);
}

}  // namespace slipway::gateway

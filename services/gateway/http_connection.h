// One client connection: requests in, answers out, in order, each wait with a deadline.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "services/gateway/origin_gate.h"
#include "services/gateway/request_gate.h"
#include "services/gateway/route_table.h"
#include "services/gateway/settings.h"

namespace slipway::gateway {

namespace beast = boost::beast;
using tcp = asio::ip::tcp;
using Stream = beast::basic_stream<tcp, Executor>;

// What all connections of a server share.
struct ConnectionShared {
  const Settings& settings;
  const RouteTable& routes;
  const OriginGate origins;
  const int max_connections;
  std::atomic<bool> leaving{false};  // every answer is the last one of its connection
  std::atomic<bool> draining{false};
  std::atomic<int> open{0};
  MemoryBudget memory;  // of all requests and answers
};

// A connection's place among those that are open, from its accept to its end; a moved-from one is none.
// Threads: any, one at a time.
class ConnectionPlace {
 public:
  explicit ConnectionPlace(ConnectionShared& shared);
  ~ConnectionPlace();
  ConnectionPlace(ConnectionPlace&& other) noexcept : shared_(std::exchange(other.shared_, nullptr)) {}
  ConnectionPlace& operator=(ConnectionPlace&&) = delete;

 private:
  ConnectionShared* shared_;
};

class HttpConnection;

// The connections of one thread that wait for a next request, the one that has waited longest first.
// Threads: that thread's; oldest() any.
class IdleConnections {
 public:
  using Clock = std::chrono::steady_clock;
  struct Entry {
    HttpConnection* connection;
    Clock::time_point since{};
  };
  // A list of its one entry while it is not among the idle ones, empty while it is.
  using Node = std::list<Entry>;

  void add(Node& node);
  void remove(Node& node, Node::iterator entry);

  // Closes the one that has waited longest. False: there is none.
  bool close_longest();

  // Since when that one has waited; the largest number: there is none.
  [[nodiscard]] Clock::rep oldest() const { return oldest_.load(std::memory_order_relaxed); }

 private:
  void note_oldest();

  static constexpr Clock::rep kNone = std::numeric_limits<Clock::rep>::max();
  Node idle_;
  std::atomic<Clock::rep> oldest_{kNone};
};

// Life: kept by its own coroutine until the connection closes. Threads: the thread of its io_context.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection>,
                             private BodyReader,
                             private BodyWriter,
                             private ClientWatch {
 public:
  HttpConnection(Stream stream, ConnectionShared& shared, ConnectionPlace place, IdleConnections& idle);
  ~HttpConnection() override;

  // Serves requests until the connection ends. Never throws.
  Task<void> run();

  // Answers 503 and closes: over the connection cap. Never throws.
  Task<void> refuse();

  // While waiting for a next request: closes now. In a request, or before the first one, which may be on its way:
  // closes after its answer.
  void drain();

  // Closes now, if it waits for a next request: another connection needs the room.
  void displace();

  // Closes whatever is going on.
  void abort();

 private:
  using Parser = beast::http::request_parser<beast::http::buffer_body>;

  Task<void> serve();
  Task<bool> serve_one();
  Task<Result<bool>> read_header();
  Task<Result<void>> read_whole_body(Call& call);
  Task<Response> handle(Call& call, const Route& route);
  Task<bool> send(Response& response, const Request& request, bool keep);
  Task<bool> write_all(std::string_view bytes);
  Task<void> linger();
  Result<Request> parse_request(std::size_t header_bytes);

  Task<Result<std::size_t>> read_body(std::span<char> into);
  Task<Response> answer(Call& call, const RouteTable::Match& match, Dialect dialect, bool expectation_met);
  void enter_idle();
  void leave_idle();
  void count_buffer();

  Task<Result<std::span<const std::byte>>> next() override;
  Task<bool> write(std::string_view bytes) override;
  void watch(std::function<void()> gone) override;
  void unwatch() override;

  const ConnectionPlace place_;  // first: given back when all else is gone
  Stream stream_;
  ConnectionShared& shared_;
  const GateLimits limits_;
  beast::flat_buffer buffer_;
  std::size_t counted_bytes_ = 0;  // of buffer_, in the metric
  IdleConnections& idle_connections_;
  IdleConnections::Node node_;
  const IdleConnections::Node::iterator entry_;

  std::optional<Parser> parser_;
  std::optional<ChunkGate> chunk_gate_;
  std::optional<Error> chunk_error_;
  std::size_t header_fields_ = 0;  // trailers would add to them
  std::uint64_t body_limit_ = 0;
  std::uint64_t body_bytes_ = 0;
  bool expects_continue_ = false;
  bool body_broken_ = false;
  std::chrono::nanoseconds body_allowance_{0};  // time that reading the body may still take
  std::unique_ptr<char[]> part_;                // what next() hands out, until the request is answered
  MemoryShare part_memory_;                     // of that

  bool chunked_answer_ = false;
  bool idle_ = true;
  bool served_ = false;  // a request has come
  bool closing_ = false;
  std::shared_ptr<std::function<void()>> gone_;
  std::string head_;
};

}  // namespace slipway::gateway

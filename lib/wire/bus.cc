#include "lib/wire/bus.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <thread>

#include "lib/base/endpoint.h"
#include "lib/base/log.h"
#include "lib/base/random_id.h"
#include "lib/base/readings.h"
#include "lib/wire/connection_watch.h"
#include "lib/wire/outbox.h"
#include "lib/wire/payload.h"
#include "lib/wire/protocol.h"
#include "lib/wire/zmq_frame.h"

namespace slipway {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTickEvery = std::chrono::milliseconds(50);
constexpr auto kRetryEvery = std::chrono::milliseconds(2);
constexpr int kReadsPerLook = 100;           // libzmq's inbound_poll_rate
constexpr std::size_t kMaxTopicBytes = 256;  // of what a listener says; libzmq keeps it at many times its size
constexpr int kBatch = 256;                  // messages taken from one socket before the others get a turn

Result<std::string> endpoint_of(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size() ||
      address.find_first_not_of("0123456789", colon + 1) != std::string::npos) {
    return fail(Code::kInvalidArgument, std::format("address '{}': wanted host:port", address));
  }
  return "tcp://" + address.substr(0, colon) + ":" + (address.substr(colon) == ":0" ? "*" : address.substr(colon + 1));
}

}  // namespace

struct Bus::State {
  struct Socket {
    zmq::socket_t socket;
    Handler handler;
    std::unique_ptr<ConnectionWatch> watch;  // of a dealer that has `lost`; behind `socket`: it must go first
    Unreachable unreachable;
    Lost lost;
    std::optional<Clock::time_point> lost_at;  // and `lost` has not been told yet
    PeerProtocols protocols;
    bool heard = false;    // something has come through this connection
    int reads = 0;         // as libzmq counts them, see look_before()
    int most_frames = 16;  // of a message so far
    bool router = false;
    bool publisher = false;
    std::optional<Outbox> outbox;
  };

  explicit State(Limits bounds)
      : limits(bounds),
        payload_limits{.max_frame_bytes = bounds.max_frame_bytes,
                       .max_frames = bounds.max_frames,
                       .max_message_bytes = bounds.max_message_bytes},
        context(1),
        wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    context.set(zmq::ctxopt::blocky, 0);
  }
  ~State() { ::close(wake); }

  zmq::context_t& context_for_names() {
    if (!context_of_names) context_of_names.emplace(1).set(zmq::ctxopt::blocky, 0);
    return *context_of_names;
  }

  struct Queued {
    SocketId socket;
    Outgoing message;
  };

  const Limits limits;
  const PayloadLimits payload_limits;
  zmq::context_t context;
  // libzmq looks names up on the thread that carries all messages of a context. What is dialled by name has one of its
  // own, so that a name server that is slow or away holds up nobody else.
  std::optional<zmq::context_t> context_of_names;
  const int wake;
  std::thread thread;
  std::atomic<std::thread::id> thread_id;

  std::mutex mutex;  // guards the six below
  std::deque<Queued> outgoing;
  std::size_t outgoing_bytes = 0;
  std::vector<std::function<void()>> posted;
  bool stopping = false;
  bool ended = false;  // nothing is taken any more
  Clock::time_point stop_at;

  mutable std::mutex ports_mutex;
  std::map<SocketId, int> ports;

  // Bus thread only.
  std::map<SocketId, Socket> sockets;
  std::vector<Tick> ticks;
  std::vector<std::function<void()>> last_work;
  std::vector<zmq::pollitem_t> items;  // of one turn; kept for their memory
  std::vector<SocketId> ids;
  std::vector<SocketId> watched;
  std::uint32_t next_socket = 1;
  bool closed = false;  // the sockets are, and no new ones are made

  std::atomic<std::uint64_t> malformed{0};
  std::atomic<std::uint64_t> undelivered{0};
  std::atomic<std::uint64_t> unknown{0};
  std::atomic<std::uint64_t> thrown{0};
  std::atomic<bool> woken{false};

  const Reading malformed_reading{"slipway_bus_malformed_total",
                                  "Messages that did not decode or were over the limits.",
                                  [this] { return malformed.load(); }};
  const Reading undelivered_reading{"slipway_bus_undelivered_total", "Messages that found no peer or no room.",
                                    [this] { return undelivered.load(); }};
  const Reading unknown_reading{"slipway_bus_unknown_total", "Messages of a kind that this release does not know.",
                                [this] { return unknown.load(); }};
  const Reading thrown_reading{"slipway_bus_thrown_total", "Handlers and other work on the bus thread that threw.",
                               [this] { return thrown.load(); }};

  void notify() {
    if (woken.exchange(true)) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake, &one, sizeof one);
  }

  bool post(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex);
      if (ended) return false;
      posted.push_back(std::move(work));
    }
    notify();
    return true;
  }

  // No exception leaves the bus thread: it would end the process. Returns whether there was none.
  template <class Work>
  bool guarded(std::string_view what, Work work) {
    try {
      work();
      return true;
    } catch (const std::exception& error) {
      ++thrown;
      spdlog::error("work on the bus thread threw what={} error={}", what, log_value(error.what()));
    } catch (...) {
      ++thrown;
      spdlog::error("work on the bus thread threw what={}", what);
    }
    return false;
  }

  // Runs `work` on the bus thread and waits for what it returns.
  Result<SocketId> run(std::function<Result<SocketId>()> work) {
    if (std::this_thread::get_id() == thread_id) return work();
    const auto task = std::make_shared<std::packaged_task<Result<SocketId>()>>(std::move(work));
    auto done = task->get_future();
    if (!post([task] { (*task)(); })) return fail(Code::kUnavailable, "the bus has stopped");
    return done.get();
  }

  Result<SocketId> add(zmq::socket_type type, const std::string& address, bool bind, Handler handler,
                       Unreachable unreachable = nullptr, Lost lost = nullptr) {
    auto endpoint = endpoint_of(address);
    if (!endpoint) return std::unexpected(endpoint.error());
    if (closed) return fail(Code::kUnavailable, "the bus has stopped");
    int port = 0;
    const bool by_name = !bind && is_by_name(address);
    try {
      zmq::context_t& own_context = by_name ? context_for_names() : context;
      Socket entry{.socket = zmq::socket_t(own_context, type),
                   .handler = std::move(handler),
                   .watch = {},
                   .unreachable = std::move(unreachable),
                   .lost = std::move(lost),
                   .lost_at = {},
                   .protocols = PeerProtocols(limits.protocols),
                   .outbox = {}};
      auto& socket = entry.socket;
      socket.set(zmq::sockopt::linger, 0);
      socket.set(zmq::sockopt::ipv6, by_name ? limits.names_over_ipv6 : address.starts_with('['));
      socket.set(zmq::sockopt::sndhwm, 1000);
      socket.set(zmq::sockopt::rcvhwm, 1000);
      const std::size_t largest = type == zmq::socket_type::pub ? kMaxTopicBytes : limits.max_frame_bytes;
      socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(largest));
      socket.set(zmq::sockopt::handshake_ivl, 5000);
      socket.set(zmq::sockopt::connect_timeout, 3000);
      socket.set(zmq::sockopt::reconnect_ivl, 50);
      socket.set(zmq::sockopt::reconnect_ivl_max, 1000);
      socket.set(zmq::sockopt::backlog, 1024);
      // libzmq's own heartbeats abort the process beside a full receive queue; ours are messages.
      socket.set(zmq::sockopt::heartbeat_ivl, 0);
      socket.set(zmq::sockopt::tcp_keepalive, 1);
      socket.set(zmq::sockopt::tcp_keepalive_idle, 30);
      socket.set(zmq::sockopt::tcp_keepalive_intvl, 10);
      socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
      if (type == zmq::socket_type::router) {
        entry.router = true;
        socket.set(zmq::sockopt::router_mandatory, true);
        socket.set(zmq::sockopt::router_handover, true);
      } else if (type == zmq::socket_type::dealer) {
        const std::string id = random_hex(128);
        socket.set(zmq::sockopt::routing_id, id);
        socket.set(zmq::sockopt::immediate, true);
      } else if (type == zmq::socket_type::sub) {
        socket.set(zmq::sockopt::subscribe, "");
      } else if (type == zmq::socket_type::pub) {
        entry.publisher = true;
      }
      if (entry.lost) {
        entry.watch = std::make_unique<ConnectionWatch>(own_context, socket, std::format("watch-{}", next_socket));
      }
      if (bind) {
        socket.bind(*endpoint);
        const std::string bound = socket.get(zmq::sockopt::last_endpoint);
        port = std::stoi(bound.substr(bound.rfind(':') + 1));
      } else {
        socket.connect(*endpoint);
      }
      const SocketId id{next_socket++};
      {
        const std::lock_guard lock(ports_mutex);
        ports[id] = port;
      }
      Socket& kept = sockets.emplace(id, std::move(entry)).first->second;
      kept.outbox.emplace(
          Outbox::Limits{.max_messages = limits.max_waiting_messages, .max_bytes = limits.max_waiting_bytes},
          [&kept](Outgoing& message) { return try_send(kept, message); },
          [this, &kept](const std::string& peer) { not_delivered(kept, peer); });
      return id;
    } catch (const zmq::error_t& error) {
      return fail(Code::kUnavailable,
                  std::format("cannot {} {}: {}", bind ? "bind" : "connect", address, error.what()));
    }
  }

  // Of a dealer; a router tells when it is given the peer.
  static bool has_room(Socket& socket) {
    return (uninterrupted([&] { return socket.socket.get(zmq::sockopt::events); }) & ZMQ_POLLOUT) != 0;
  }

  // A router's message has begun by then: it goes out with the deadline that it had rather than be cut short.
  static void stamp_if_possible(Outgoing& out) {
    try {
      stamp(out);
    } catch (const std::bad_alloc& error) {
      spdlog::warn("deadline not counted down error={}", log_value(error.what()));
    }
  }

  static Outbox::Sent try_send(Socket& socket, Outgoing& out) {
    if (const auto protocol = socket.protocols.write_in(out.peer); protocol != out.protocol) {
      out.envelope = with_protocol(out.envelope, protocol);
      out.protocol = protocol;
    }
    constexpr auto kFlags = zmq::send_flags::dontwait;
    const auto send = [&](zmq::message_t part, bool more) {
      const auto flags = more ? kFlags | zmq::send_flags::sndmore : kFlags;
      return uninterrupted([&] { return socket.socket.send(part, flags).has_value(); });
    };
    try {
      if (socket.router) {
        if (!send(zmq::message_t(out.peer), true)) return Outbox::Sent::kNoRoom;
      } else if (out.left_ms != out.deadline_ms && !has_room(socket)) {
        return Outbox::Sent::kNoRoom;
      }
      stamp_if_possible(out);
      // Once begun a message is finished, whatever happens: else the next one would be taken for the rest of it.
      bool whole = send(to_zmq(out.envelope), !out.pieces.empty());
      if (!whole && !socket.router) return Outbox::Sent::kNoRoom;
      for (std::size_t i = 0; i < out.pieces.size(); ++i) {
        whole = send(to_zmq(out.pieces[i]), i + 1 < out.pieces.size()) && whole;
      }
      return whole ? Outbox::Sent::kYes : Outbox::Sent::kGone;
    } catch (const zmq::error_t&) {
      return Outbox::Sent::kGone;  // EHOSTUNREACH: the peer has gone
    }
  }

  // Told later, not from inside the send: the one who sends may be in the middle of something.
  void not_delivered(Socket& socket, const std::string& peer) {
    ++undelivered;
    socket.protocols.forget(peer);
    if (socket.unreachable) post([tell = socket.unreachable, peer] { tell(peer); });
  }

  Result<void> deliver(Queued out) {
    const auto found = sockets.find(out.socket);
    if (found == sockets.end()) {
      ++undelivered;
      return fail(Code::kUnavailable, "the connection is closed");
    }
    Socket& socket = found->second;
    auto delivered = socket.outbox->deliver(std::move(out.message), Clock::now());
    if (delivered) return delivered;
    if (delivered.error().code == Code::kUnavailable) not_delivered(socket, out.message.peer);
    if (delivered.error().code == Code::kOverloaded) ++undelivered;
    return delivered;
  }

  // The message as it will travel. What the other side would refuse is refused here: it would cut the connection, and
  // with it what others have on it.
  [[nodiscard]] Result<Outgoing> prepare(const std::string& peer, Message message) const {
    if (auto fits = check_payload(message.payload, payload_limits); !fits) return std::unexpected(fits.error());
    Outgoing out{.peer = peer, .correlation = message.envelope.correlation, .envelope = {}, .pieces = {}, .bytes = 256};
    for (const Frame& frame : message.payload) out.bytes += frame.size();
    message.envelope.payload_bytes = cut_payload(message.payload, limits.max_frame_bytes);
    message.envelope.protocol = out.protocol = limits.protocols.oldest;
    message.envelope.protocols = limits.protocols;
    auto encoded = encode(message.envelope, limits.max_frame_bytes);
    if (!encoded) return std::unexpected(std::move(encoded).error());
    out.envelope = std::move(*encoded);
    out.bytes += out.envelope.size();
    out.pieces = std::move(message.payload);
    out.deadline_ms = message.envelope.deadline_ms;
    if (out.deadline_ms > 0) out.expires = Clock::now() + std::chrono::milliseconds(out.deadline_ms);
    return out;
  }

  // What came in one message.
  struct Parts {
    std::string peer;
    std::vector<Frame> frames;  // the envelope first
    bool too_many = false;      // and the rest is dropped
  };

  // At every hundredth frame that is read from a socket libzmq looks what has become of its connections, and when a
  // dealer's is gone and the frame was in the middle of a message, an assertion (fq.cpp) ends the process. So it looks
  // here, between two messages, when the next may have the hundredth. Then only a connection that is lost in the
  // microseconds of reading that message can do it.
  static void look_before(Socket& socket) {
    if (socket.router || socket.reads + socket.most_frames < kReadsPerLook) return;
    (void)uninterrupted([&] { return socket.socket.get(zmq::sockopt::events); });
  }

  // Whether there was a frame.
  static bool read_frame(Socket& socket, zmq::message_t& frame) {
    const bool there = uninterrupted([&] { return socket.socket.recv(frame, zmq::recv_flags::dontwait).has_value(); });
    socket.reads = there && socket.reads + 1 < kReadsPerLook ? socket.reads + 1 : 0;
    return there;
  }

  // One whole message, or nothing when there is none.
  std::optional<Parts> receive_parts(Socket& socket) const {
    look_before(socket);
    int frames = 0;
    const std::size_t max_bytes = limits.max_message_bytes + kMaxEnvelopeBytes;
    Parts parts;
    std::size_t bytes = 0;
    bool first = true;
    for (bool more = true; more; first = false) {
      zmq::message_t frame;
      if (!read_frame(socket, frame)) return {};
      more = frame.more();
      socket.most_frames = std::max(socket.most_frames, ++frames);
      if (first && socket.router) {
        parts.peer = frame.to_string();
        continue;
      }
      bytes += frame.size();
      parts.too_many = parts.too_many || parts.frames.size() > max_pieces(payload_limits) || bytes > max_bytes;
      if (!parts.too_many) parts.frames.push_back(from_zmq(std::move(frame)));
    }
    return parts;
  }

  [[nodiscard]] Result<Message> read(Parts& parts) const {
    if (parts.too_many) {
      return fail(Code::kTooLarge, std::format("a message of more than {} payload frames or {} bytes",
                                               limits.max_frames, limits.max_message_bytes));
    }
    if (parts.frames.empty()) return fail(Code::kInvalidArgument, "a message without an envelope");
    auto envelope = decode(parts.frames.front().bytes(), limits.protocols);
    if (!envelope) return std::unexpected(std::move(envelope).error());
    std::vector<Frame> pieces(std::make_move_iterator(parts.frames.begin() + 1),
                              std::make_move_iterator(parts.frames.end()));
    auto payload = join_payload(std::move(pieces), envelope->payload_bytes, payload_limits);
    if (!payload) return std::unexpected(std::move(payload).error());
    envelope->payload_bytes.clear();
    return Message{.envelope = std::move(*envelope), .payload = std::move(*payload)};
  }

  // True: it was in a protocol that is not read here, from one who speaks another one that is; he is told.
  bool asked_for_another_protocol(SocketId id, Socket& socket, const std::string& peer, const EnvelopeHead& head) {
    if (!socket.router || contains(limits.protocols, head.protocol)) return false;
    socket.protocols.heard(peer, head.protocols);
    if (!common_protocol(limits.protocols, head.protocols)) return false;
    if (socket.outbox->waits_for(peer)) return true;
    auto out = prepare(
        peer,
        {.envelope = {.correlation = head.correlation, .request_id = {}, .body = msg::OtherProtocol{}}, .payload = {}});
    if (out) (void)deliver({.socket = id, .message = std::move(*out)});
    return true;
  }

  void refuse(SocketId id, Socket& socket, const Parts& parts, const Error& error) {
    const auto head = parts.frames.empty() ? std::nullopt : head_of(parts.frames.front().bytes());
    if (head && asked_for_another_protocol(id, socket, parts.peer, *head)) return;
    if (const auto count = ++malformed; is_worth_a_line(count))
      spdlog::warn("malformed message count={} reason={}", count, log_value(error.message));
    const std::uint64_t correlation = head ? head->correlation : 0;
    Message refusal{.envelope = {.correlation = correlation, .request_id = {}, .body = to_message(error)},
                    .payload = {}};
    if (!socket.router) {
      if (correlation != 0) handle(id, socket, {}, std::move(refusal));
      return;
    }
    // Whoever sends garbage and reads nothing gets no queue for it.
    if (socket.outbox->waits_for(parts.peer)) return;
    if (auto out = prepare(parts.peer, std::move(refusal))) {
      (void)deliver({.socket = id, .message = std::move(*out)});
    }
  }

  // What is known of the peer from its envelope. True: what it was sent must be sent again.
  bool take_head(Socket& socket, const std::string& peer, msg::Envelope& envelope) {
    socket.protocols.heard(peer, envelope.protocols);
    socket.heard = true;
    if (std::holds_alternative<msg::Nothing>(envelope.body)) {
      if (const auto count = ++unknown; is_worth_a_line(count))
        spdlog::warn("message of an unknown kind count={} correlation={}", count, envelope.correlation);
    }
    if (!std::holds_alternative<msg::OtherProtocol>(envelope.body)) return false;
    envelope.body = to_message(unread(limits.protocols.oldest, limits.protocols, envelope.protocols));
    return common_protocol(limits.protocols, envelope.protocols).has_value();
  }

  void handle(SocketId id, const Socket& socket, const std::string& peer, Message message, bool unread = false) {
    const std::uint64_t correlation = message.envelope.correlation;
    const bool handled = guarded("handler", [&] {
      socket.handler({.socket = id, .peer = peer, .message = std::move(message), .unread = unread});
    });
    if (handled || !socket.router || correlation == 0) return;
    const Error error{.code = Code::kInternal, .message = "the message could not be handled", .path = {}};
    auto answer = prepare(
        peer, {.envelope = {.correlation = correlation, .request_id = {}, .body = to_message(error)}, .payload = {}});
    if (answer) (void)deliver({.socket = id, .message = std::move(*answer)});
  }

  // False when there is no message.
  bool receive(SocketId id, Socket& socket) {
    auto parts = receive_parts(socket);
    if (!parts) return false;
    if (!socket.handler) return true;
    auto message = read(*parts);
    if (!message) {
      refuse(id, socket, *parts, message.error());
    } else {
      const bool again = take_head(socket, parts->peer, message->envelope);
      handle(id, socket, parts->peer, std::move(*message), again);
    }
    return true;
  }

  void take_queues() {
    std::vector<std::function<void()>> work;
    std::deque<Queued> out;
    {
      const std::lock_guard lock(mutex);
      work.swap(posted);
      out.swap(outgoing);
      outgoing_bytes = 0;
    }
    for (auto& item : out) guarded("send", [&] { (void)deliver(std::move(item)); });
    for (auto& item : work) guarded("posted", item);
  }

  [[nodiscard]] bool finished() {
    const std::lock_guard lock(mutex);
    if (!stopping) return false;
    if (Clock::now() >= stop_at) return true;
    return outgoing.empty() && posted.empty() &&
           std::ranges::all_of(sockets, [](const auto& entry) { return entry.second.outbox->empty(); });
  }

  void note_losses() {
    for (std::size_t i = 0; i < watched.size(); ++i) {
      if (items[1 + ids.size() + i].revents == 0) continue;
      Socket& socket = sockets.at(watched[i]);
      if (socket.watch->take_ended() && !socket.lost_at) socket.lost_at = Clock::now();
    }
  }

  // libzmq tells of the end a moment before it takes the way to the peer from the dealer: what was sent in between
  // would be lost without a word. Once the way is gone, or by now surely another one (a new connection is not made
  // within 50 ms), that cannot happen.
  static bool is_cut_off(Socket& socket, Clock::time_point now) {
    return !has_room(socket) || now >= *socket.lost_at + kTickEvery;
  }

  void tell_losses() {
    const auto now = Clock::now();
    for (const SocketId id : watched) {
      const auto found = sockets.find(id);
      if (found == sockets.end() || !found->second.lost_at) continue;
      // Read first: once libzmq learns of the end it drops what is left.
      int taken = 0;
      while (taken < kBatch && receive(id, found->second)) ++taken;
      if (taken == kBatch || !is_cut_off(found->second, now)) continue;
      found->second.lost_at.reset();
      found->second.protocols.forget({});
      found->second.heard = false;
      guarded("lost", found->second.lost);
    }
  }

  void turn(Clock::time_point& next_tick) {
    items.clear();
    ids.clear();
    watched.clear();
    bool waits_for_loss = false;
    bool waits_for_a_peer = false;  // of a router: poll does not tell when that one has room
    items.push_back({nullptr, wake, ZMQ_POLLIN, 0});
    for (auto& [id, socket] : sockets) {
      if (socket.publisher) continue;
      const bool waiting = !socket.outbox->empty();
      const short events = !socket.router && waiting ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN;
      waits_for_a_peer = waits_for_a_peer || (socket.router && waiting);
      items.push_back({socket.socket.handle(), 0, events, 0});
      ids.push_back(id);
      waits_for_loss = waits_for_loss || socket.lost_at;
      if (socket.watch) watched.push_back(id);
    }
    for (const SocketId id : watched) items.push_back({sockets.at(id).watch->handle(), 0, ZMQ_POLLIN, 0});
    auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(next_tick - Clock::now());
    timeout = std::clamp(timeout, std::chrono::milliseconds(0),
                         waits_for_a_peer || waits_for_loss ? kRetryEvery : kTickEvery);
    // Interrupted by a signal it has told nothing, and the items are as they were.
    zmq_poll(items.data(), static_cast<int>(items.size()), timeout.count());

    if (woken.exchange(false)) {
      std::uint64_t count = 0;
      [[maybe_unused]] const auto got = ::read(wake, &count, sizeof count);
    }
    note_losses();
    take_queues();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (items[i + 1].revents == 0) continue;
      for (int taken = 0; taken < kBatch; ++taken) {
        const auto found = sockets.find(ids[i]);  // a handler may have closed it
        if (found == sockets.end() || !receive(ids[i], found->second)) break;
      }
    }
    tell_losses();
    for (auto& [id, socket] : sockets) {
      if (!socket.outbox->empty()) socket.outbox->flush(Clock::now());
    }

    if (const auto now = Clock::now(); now >= next_tick) {
      next_tick = now + kTickEvery;
      for (std::size_t i = 0; i < ticks.size(); ++i) {
        guarded("tick", [&] { ticks[i](now); });
      }
    }
  }

  void loop() {
    auto next_tick = Clock::now();
    while (!finished()) guarded("turn", [&] { turn(next_tick); });

    // What libzmq has taken but not yet written gets what is left of the time.
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(stop_at - Clock::now());
    for (auto& [id, socket] : sockets) {
      guarded("close", [&] { socket.socket.set(zmq::sockopt::linger, std::max<int>(0, left.count())); });
    }
    closed = true;
    sockets.clear();
    // Whoever waits for posted work gets it, whoever waits for an answer hears that none will come.
    for (auto& work : std::exchange(last_work, {})) guarded("last", work);
    for (bool more = true; more;) {
      take_queues();
      const std::lock_guard lock(mutex);
      ended = posted.empty();
      more = !ended;
    }
  }
};

Bus::Bus() : Bus(Limits{}) {}

Bus::Bus(Limits limits) : state_(std::make_unique<State>(limits)) {
  State& state = *state_;
  state.thread = std::thread([&state] {
    state.thread_id = std::this_thread::get_id();
    pthread_setname_np(pthread_self(), "bus");
    state.loop();
  });
}

Bus::~Bus() { stop(); }

Result<SocketId> Bus::bind_router(const std::string& address, Handler handler, Unreachable unreachable) {
  return state_->run(
      [&] { return state_->add(zmq::socket_type::router, address, true, std::move(handler), std::move(unreachable)); });
}

Result<SocketId> Bus::bind_publisher(const std::string& address) {
  return state_->run([&] { return state_->add(zmq::socket_type::pub, address, true, nullptr); });
}

Result<SocketId> Bus::connect_dealer(const std::string& address, Handler handler, Lost lost) {
  return state_->run([&] {
    return state_->add(zmq::socket_type::dealer, address, false, std::move(handler), nullptr, std::move(lost));
  });
}

Result<SocketId> Bus::connect_subscriber(const std::string& address, Handler handler) {
  return state_->run([&] { return state_->add(zmq::socket_type::sub, address, false, std::move(handler)); });
}

int Bus::port(SocketId socket) const {
  const std::lock_guard lock(state_->ports_mutex);
  const auto found = state_->ports.find(socket);
  return found == state_->ports.end() ? 0 : found->second;
}

void Bus::close(SocketId socket) {
  post([state = state_.get(), socket] { state->sockets.erase(socket); });
}

Result<void> Bus::send(SocketId socket, const std::string& peer, Message message) {
  auto out = state_->prepare(peer, std::move(message));
  if (!out) return std::unexpected(std::move(out).error());
  if (on_bus_thread()) return state_->deliver({.socket = socket, .message = std::move(*out)});
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->ended) return fail(Code::kUnavailable, "the bus has stopped");
    if (state_->outgoing.size() >= state_->limits.max_queued_messages ||
        state_->outgoing_bytes >= state_->limits.max_queued_bytes) {
      ++state_->undelivered;
      return fail(Code::kOverloaded, std::format("{} messages of {} bytes wait to be sent already",
                                                 state_->outgoing.size(), state_->outgoing_bytes));
    }
    state_->outgoing_bytes += out->bytes;
    state_->outgoing.push_back({.socket = socket, .message = std::move(*out)});
  }
  state_->notify();
  return {};
}

Result<void> Bus::answer(SocketId socket, const std::string& peer, Message message) {
  const std::uint64_t correlation = message.envelope.correlation;
  const std::string request_id = message.envelope.request_id;
  auto sent = send(socket, peer, std::move(message));
  if (!sent && sent.error().code == Code::kTooLarge) {
    (void)send(socket, peer,
               {.envelope = {.correlation = correlation, .request_id = request_id, .body = to_message(sent.error())},
                .payload = {}});
  }
  return sent;
}

Result<void> Bus::knock(SocketId socket, const std::string& peer) {
  if (!on_bus_thread()) {
    if (post([this, socket, peer] { (void)knock(socket, peer); })) return {};
    return fail(Code::kUnavailable, "the bus has stopped");
  }
  const auto found = state_->sockets.find(socket);
  if (found != state_->sockets.end() && found->second.outbox->waits_for(peer)) return {};
  return send(socket, peer, {.envelope = {.request_id = {}, .body = msg::Ok{}}, .payload = {}});
}

std::vector<std::uint64_t> Bus::waiting(SocketId dealer) const {
  const auto found = state_->sockets.find(dealer);
  return found == state_->sockets.end() ? std::vector<std::uint64_t>() : found->second.outbox->correlations({});
}

bool Bus::has_heard(SocketId dealer) const {
  const auto found = state_->sockets.find(dealer);
  return found != state_->sockets.end() && found->second.heard;
}

bool Bus::post(std::function<void()> work) { return state_->post(std::move(work)); }

void Bus::on_tick(Tick tick) {
  post([state = state_.get(), tick = std::move(tick)]() mutable { state->ticks.push_back(std::move(tick)); });
}

void Bus::on_stopped(std::function<void()> work) {
  post([state = state_.get(), work = std::move(work)]() mutable {
    if (!state->closed) return state->last_work.push_back(std::move(work));
    work();
  });
}

bool Bus::on_bus_thread() const { return std::this_thread::get_id() == state_->thread_id.load(); }

std::uint64_t Bus::malformed_total() const { return state_->malformed; }
std::uint64_t Bus::undelivered_total() const { return state_->undelivered; }
std::uint64_t Bus::thrown_total() const { return state_->thrown; }

void Bus::stop(std::chrono::milliseconds linger) {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->stopping) {
      state_->stopping = true;
      state_->stop_at = Clock::now() + linger;
    }
  }
  state_->notify();
  if (state_->thread.joinable()) state_->thread.join();
}

}  // namespace slipway

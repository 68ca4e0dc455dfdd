#include "lib/wire/bus.h"

#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <zmq.hpp>

#include "lib/base/random_id.h"

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace slipway {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTickEvery = std::chrono::milliseconds(50);
constexpr auto kRetryEvery = std::chrono::milliseconds(2);
constexpr int kBatch = 256;               // messages taken from one socket before the others get a turn
constexpr std::size_t kCopyBelow = 1024;  // smaller frames are copied: cheaper than sharing the owner

// libzmq hands messages to its own thread through queues that the thread sanitizer does not see into: told here.
#ifdef __SANITIZE_THREAD__
void hand_over(void* owner) { __tsan_release(owner); }
void take_over(void* owner) { __tsan_acquire(owner); }
#else
void hand_over(void*) {}
void take_over(void*) {}
#endif

zmq::message_t to_zmq(const Frame& frame) {
  if (frame.size() <= kCopyBelow) return zmq::message_t(frame.data(), frame.size());
  auto* owner = new std::shared_ptr<const void>(frame.owner());
  hand_over(owner);
  return zmq::message_t(
      const_cast<std::byte*>(frame.data()), frame.size(),
      [](void*, void* hint) {
        take_over(hint);
        delete static_cast<std::shared_ptr<const void>*>(hint);
      },
      owner);
}

Frame from_zmq(zmq::message_t message) {
  // A small frame pins libzmq's whole 8 KiB read buffer and starts at any address: copy it into its own memory.
  if (message.size() < 8192) {
    return Frame::copy(std::span(static_cast<const std::byte*>(message.data()), message.size()));
  }
  auto owner = std::make_shared<zmq::message_t>(std::move(message));
  return Frame({static_cast<const std::byte*>(owner->data()), owner->size()}, owner);
}

Result<std::string> endpoint_of(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size() ||
      address.find_first_not_of("0123456789", colon + 1) != std::string::npos) {
    return fail(Code::kInvalidArgument, std::format("address '{}': wanted host:port", address));
  }
  return "tcp://" + address.substr(0, colon) + ":" + (address.substr(colon) == ":0" ? "*" : address.substr(colon + 1));
}

struct Outgoing {
  SocketId socket;
  std::string peer;
  Message message;
  Frame encoded;                             // of the envelope, once it has none or no deadline to count down
  std::optional<Clock::time_point> expires;  // from the envelope's deadline
  std::uint32_t encoded_deadline_ms = 0;     // that `encoded` holds

  [[nodiscard]] std::size_t size_bytes() const {
    std::size_t size = 256;  // the rest of what it holds, about
    for (const Frame& frame : message.payload) size += frame.size();
    return size;
  }
};

// What waits for room: of one dealer, or for one peer of a router.
struct Waiting {
  std::deque<Outgoing> messages;
  std::size_t bytes = 0;

  void push(Outgoing out) {
    bytes += out.size_bytes();
    messages.push_back(std::move(out));
  }
  void pop() {
    bytes -= messages.front().size_bytes();
    messages.pop_front();
  }
};

}  // namespace

struct Bus::State {
  struct Socket {
    zmq::socket_t socket;
    Handler handler;
    Unreachable unreachable;
    bool router = false;
    bool subscriber = false;
    bool publisher = false;
    int port = 0;
    std::map<std::string, Waiting> waiting;  // by peer; a dealer's only entry is ""
  };

  explicit State(Limits bounds) : limits(bounds), context(1), wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    context.set(zmq::ctxopt::blocky, 0);
  }
  ~State() { ::close(wake); }

  const Limits limits;
  zmq::context_t context;
  const int wake;
  std::thread thread;
  std::atomic<std::thread::id> thread_id;

  std::mutex mutex;  // guards the four below
  std::deque<Outgoing> outgoing;
  std::vector<std::function<void()>> posted;
  bool stopping = false;
  Clock::time_point stop_at;

  mutable std::mutex ports_mutex;
  std::map<SocketId, int> ports;

  // Bus thread only.
  std::map<SocketId, Socket> sockets;
  std::vector<Tick> ticks;
  std::uint32_t next_socket = 1;

  std::atomic<std::uint64_t> malformed{0};
  std::atomic<std::uint64_t> undelivered{0};
  std::atomic<bool> woken{false};

  void notify() {
    if (woken.exchange(true)) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake, &one, sizeof one);
  }

  // Runs `work` on the bus thread and waits for what it returns.
  template <class F>
  auto run(F work) -> decltype(work()) {
    if (std::this_thread::get_id() == thread_id) return work();
    auto task = std::make_shared<std::packaged_task<decltype(work())()>>(std::move(work));
    auto done = task->get_future();
    {
      const std::lock_guard lock(mutex);
      posted.emplace_back([task] { (*task)(); });
    }
    notify();
    return done.get();
  }

  Result<SocketId> add(zmq::socket_type type, const std::string& address, bool bind, Handler handler,
                       Unreachable unreachable = nullptr) {
    auto endpoint = endpoint_of(address);
    if (!endpoint) return std::unexpected(endpoint.error());
    try {
      Socket entry{.socket = zmq::socket_t(context, type),
                   .handler = std::move(handler),
                   .unreachable = std::move(unreachable),
                   .waiting = {}};
      auto& socket = entry.socket;
      socket.set(zmq::sockopt::linger, 0);
      socket.set(zmq::sockopt::sndhwm, 1000);
      socket.set(zmq::sockopt::rcvhwm, 1000);
      socket.set(zmq::sockopt::maxmsgsize, limits.max_frame_bytes);
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
        entry.subscriber = true;
        socket.set(zmq::sockopt::subscribe, "");
      } else if (type == zmq::socket_type::pub) {
        entry.publisher = true;
      }
      if (bind) {
        socket.bind(*endpoint);
        const std::string bound = socket.get(zmq::sockopt::last_endpoint);
        entry.port = std::stoi(bound.substr(bound.rfind(':') + 1));
      } else {
        socket.connect(*endpoint);
      }
      const SocketId id{next_socket++};
      {
        const std::lock_guard lock(ports_mutex);
        ports[id] = entry.port;
      }
      sockets.emplace(id, std::move(entry));
      return id;
    } catch (const zmq::error_t& error) {
      return fail(Code::kUnavailable,
                  std::format("cannot {} {}: {}", bind ? "bind" : "connect", address, error.what()));
    }
  }

  enum class Sent : std::uint8_t { kYes, kLater, kNever, kExpired };

  Sent try_send(Socket& socket, Outgoing& out) {
    constexpr auto kFlags = zmq::send_flags::dontwait;
    const std::vector<Frame>& payload = out.message.payload;
    if (out.expires) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*out.expires - Clock::now()).count();
      if (left <= 0) return Sent::kExpired;
      if (left != out.encoded_deadline_ms) {
        out.message.envelope.deadline_ms = out.encoded_deadline_ms = static_cast<std::uint32_t>(left);
        out.encoded = encode(out.message.envelope);
      }
    }
    try {
      if (socket.router) {
        zmq::message_t peer(out.peer);
        if (!socket.socket.send(peer, kFlags | zmq::send_flags::sndmore)) return Sent::kLater;
      }
      const auto more = [&](std::size_t sent) {
        return sent < payload.size() ? kFlags | zmq::send_flags::sndmore : kFlags;
      };
      if (!socket.socket.send(to_zmq(out.encoded), more(0))) return Sent::kLater;
      // Once begun a message is finished, whatever happens: else the next one would be taken for the rest of it.
      bool whole = true;
      for (std::size_t i = 0; i < payload.size(); ++i) {
        whole = socket.socket.send(to_zmq(payload[i]), more(i + 1)).has_value() && whole;
      }
      return whole ? Sent::kYes : Sent::kNever;
    } catch (const zmq::error_t&) {
      return Sent::kNever;  // EHOSTUNREACH: the peer has gone
    }
  }

  // Told later, not from inside the send: the one who sends may be in the middle of something.
  void not_delivered(const Socket& socket, const std::string& peer) {
    ++undelivered;
    if (!socket.unreachable) return;
    const std::lock_guard lock(mutex);
    posted.emplace_back([tell = socket.unreachable, peer] { tell(peer); });
    notify();
  }

  Result<void> deliver(Outgoing out) {
    const auto found = sockets.find(out.socket);
    if (found == sockets.end()) {
      ++undelivered;
      return fail(Code::kUnavailable, "the connection is closed");
    }
    Socket& socket = found->second;
    const auto queue = socket.waiting.find(out.peer);
    if (queue == socket.waiting.end()) {
      const Sent sent = try_send(socket, out);
      if (sent == Sent::kExpired) return fail(Code::kDeadlineExceeded, "the deadline passed before there was room");
      if (sent == Sent::kNever) {
        not_delivered(socket, out.peer);
        return fail(Code::kUnavailable, "the peer has gone");
      }
      if (sent == Sent::kLater) {
        std::string peer = out.peer;
        socket.waiting[std::move(peer)].push(std::move(out));
      }
      return {};
    }
    if (queue->second.messages.size() >= limits.max_waiting_messages ||
        queue->second.bytes + out.size_bytes() > limits.max_waiting_bytes) {
      ++undelivered;
      return fail(Code::kOverloaded, std::format("{} messages of {} bytes wait for the peer already",
                                                 queue->second.messages.size(), queue->second.bytes));
    }
    queue->second.push(std::move(out));
    return {};
  }

  // What the other side refuses is not sent: it would cut the connection, and with it what others have on it.
  [[nodiscard]] Result<void> fits(const Outgoing& out) const {
    if (out.encoded.size() > kMaxEnvelopeBytes) {
      return fail(Code::kTooLarge, std::format("a message with an envelope of {} bytes, at most {} are sent",
                                               out.encoded.size(), kMaxEnvelopeBytes));
    }
    const auto& payload = out.message.payload;
    if (payload.size() + 1 > limits.max_frames) {
      return fail(Code::kTooLarge, std::format("a message with {} payload frames, at most {} are sent", payload.size(),
                                               limits.max_frames - 1));
    }
    for (const Frame& frame : payload) {
      if (frame.size() > static_cast<std::size_t>(limits.max_frame_bytes)) {
        return fail(Code::kTooLarge, std::format("a message with a payload frame of {} bytes, at most {} are sent",
                                                 frame.size(), limits.max_frame_bytes));
      }
    }
    return {};
  }

  // Peers do not wait for each other: one that does not read holds up only what is for itself.
  void flush_waiting(Socket& socket) {
    for (auto at = socket.waiting.begin(); at != socket.waiting.end();) {
      Waiting& queue = at->second;
      Sent sent = Sent::kYes;
      while (!queue.messages.empty()) {
        sent = try_send(socket, queue.messages.front());
        if (sent == Sent::kLater) break;
        if (sent == Sent::kNever) not_delivered(socket, queue.messages.front().peer);
        queue.pop();
      }
      at = queue.messages.empty() ? socket.waiting.erase(at) : std::next(at);
    }
  }

  // One whole message, or nothing when there is none.
  bool receive(SocketId id, Socket& socket) {
    std::vector<Frame> frames;
    std::string peer;
    bool first = true;
    bool too_many = false;
    for (bool more = true; more;) {
      zmq::message_t frame;
      if (!socket.socket.recv(frame, zmq::recv_flags::dontwait)) return false;
      more = frame.more();
      if (first && socket.router) {
        peer = frame.to_string();
      } else if (frames.size() < limits.max_frames) {
        frames.push_back(from_zmq(std::move(frame)));
      } else {
        too_many = true;
      }
      first = false;
    }
    if (!socket.handler) return true;
    auto envelope = [&]() -> Result<msg::Envelope> {
      if (too_many) return fail(Code::kTooLarge, std::format("more than {} frames", limits.max_frames));
      if (frames.empty()) return fail(Code::kInvalidArgument, "a message without an envelope");
      return decode(frames.front().bytes());
    }();
    if (!envelope) {
      const auto count = ++malformed;
      // A stranger must not fill the disk with log lines: the first ten, then each power of two.
      if (count <= 10 || (count & (count - 1)) == 0) {
        spdlog::warn("malformed message count={} reason=\"{}\"", count, envelope.error().message);
      }
      // Whoever sends garbage and reads nothing gets no queue for it.
      if (socket.router && !socket.waiting.contains(peer)) {
        Outgoing refusal{
            .socket = id, .peer = peer, .message = {}, .encoded = {}, .expires = {}, .encoded_deadline_ms = 0};
        refusal.message.envelope.body = to_message(envelope.error());
        refusal.encoded = encode(refusal.message.envelope);
        (void)deliver(std::move(refusal));
      }
      return true;
    }
    Message message{.envelope = std::move(*envelope), .payload = {}};
    message.payload.assign(std::make_move_iterator(frames.begin() + 1), std::make_move_iterator(frames.end()));
    socket.handler({.socket = id, .peer = std::move(peer), .message = std::move(message)});
    return true;
  }

  void take_queues() {
    std::vector<std::function<void()>> work;
    std::deque<Outgoing> out;
    {
      const std::lock_guard lock(mutex);
      work.swap(posted);
      out.swap(outgoing);
    }
    for (auto& item : out) (void)deliver(std::move(item));
    for (auto& item : work) item();
  }

  [[nodiscard]] bool finished() {
    const std::lock_guard lock(mutex);
    if (!stopping) return false;
    if (Clock::now() >= stop_at) return true;
    return outgoing.empty() && posted.empty() &&
           std::ranges::all_of(sockets, [](const auto& entry) { return entry.second.waiting.empty(); });
  }

  void loop() {
    auto next_tick = Clock::now();
    std::vector<zmq::pollitem_t> items;
    std::vector<SocketId> ids;
    while (!finished()) {
      items.clear();
      ids.clear();
      bool waits_for_a_peer = false;  // of a router: poll does not tell when that one has room
      items.push_back({nullptr, wake, ZMQ_POLLIN, 0});
      for (auto& [id, socket] : sockets) {
        if (socket.publisher) continue;
        const short events = !socket.router && !socket.waiting.empty() ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN;
        waits_for_a_peer = waits_for_a_peer || (socket.router && !socket.waiting.empty());
        items.push_back({socket.socket.handle(), 0, events, 0});
        ids.push_back(id);
      }
      auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(next_tick - Clock::now());
      timeout = std::clamp(timeout, std::chrono::milliseconds(0), waits_for_a_peer ? kRetryEvery : kTickEvery);
      zmq_poll(items.data(), static_cast<int>(items.size()), timeout.count());

      if (woken.exchange(false)) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = ::read(wake, &count, sizeof count);
      }
      take_queues();
      for (std::size_t i = 0; i < ids.size(); ++i) {
        if (items[i + 1].revents == 0) continue;
        for (int taken = 0; taken < kBatch; ++taken) {
          const auto found = sockets.find(ids[i]);  // a handler may have closed it
          if (found == sockets.end() || !receive(ids[i], found->second)) break;
        }
      }
      for (auto& [id, socket] : sockets) flush_waiting(socket);

      if (const auto now = Clock::now(); now >= next_tick) {
        next_tick = now + kTickEvery;
        for (std::size_t i = 0; i < ticks.size(); ++i) ticks[i](now);
      }
    }
    // What libzmq has taken but not yet written gets what is left of the time.
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(stop_at - Clock::now());
    for (auto& [id, socket] : sockets) socket.socket.set(zmq::sockopt::linger, std::max<int>(0, left.count()));
    sockets.clear();
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

Result<SocketId> Bus::connect_dealer(const std::string& address, Handler handler) {
  return state_->run([&] { return state_->add(zmq::socket_type::dealer, address, false, std::move(handler)); });
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
  const std::uint32_t deadline_ms = message.envelope.deadline_ms;
  Outgoing out{.socket = socket,
               .peer = peer,
               .message = std::move(message),
               .encoded = {},
               .expires = {},
               .encoded_deadline_ms = 0};
  if (deadline_ms > 0) out.expires = Clock::now() + std::chrono::milliseconds(deadline_ms);
  out.encoded = encode(out.message.envelope);
  out.encoded_deadline_ms = deadline_ms;
  if (auto fits = state_->fits(out); !fits) return fits;
  if (on_bus_thread()) return state_->deliver(std::move(out));
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->outgoing.size() >= state_->limits.max_queued_messages) {
      ++state_->undelivered;
      return fail(Code::kOverloaded,
                  std::format("{} messages wait to be sent already", state_->limits.max_queued_messages));
    }
    state_->outgoing.push_back(std::move(out));
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

void Bus::post(std::function<void()> work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->posted.push_back(std::move(work));
  }
  state_->notify();
}

void Bus::on_tick(Tick tick) {
  post([state = state_.get(), tick = std::move(tick)]() mutable { state->ticks.push_back(std::move(tick)); });
}

bool Bus::on_bus_thread() const { return std::this_thread::get_id() == state_->thread_id.load(); }

std::uint64_t Bus::malformed_total() const { return state_->malformed; }
std::uint64_t Bus::undelivered_total() const { return state_->undelivered; }

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

#include "lib/wire/worker_link.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "lib/base/log.h"
#include "lib/wire/address_list.h"

namespace slipway {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kHeartbeatEvery = std::chrono::seconds(1);
constexpr int kAbsences = 2;  // after so many a silent gateway is forgotten
constexpr auto kRefusedFor = std::chrono::seconds(5);
constexpr std::uint64_t kLeaving = 1;  // correlation of a heartbeat that says so: the only one that is answered

struct Gateway {
  SocketId socket{};
  bool welcomed = false;
  bool knows_leaving = false;
  int absences = 0;  // whole answers in a row that did not name it
  Clock::time_point heard{};
  Clock::time_point next_beat{};
};

}  // namespace

// `gateways` is touched on the bus thread only; the resolver thread hands its findings over with post.
struct WorkerLink::Impl : std::enable_shared_from_this<WorkerLink::Impl> {
  Impl(Bus& owner, msg::Hello greeting, State worker_state, OnRequest handler, std::string shown, Times given)
      : bus(owner),
        hello(std::move(greeting)),
        secret(std::move(shown)),
        times(given),
        state(std::move(worker_state)),
        on_request(std::move(handler)) {}

  Bus& bus;
  const msg::Hello hello;
  const std::string secret;
  const Times times;
  const State state;
  const OnRequest on_request;
  const std::size_t first_of_remainder = std::hash<std::string>()(hello.worker_id.text());
  std::map<std::string, Gateway> gateways;  // by literal address
  std::atomic<int> dialled{0};
  std::atomic<int> welcomed{0};
  std::atomic<int> unaware{0};  // of those, who do not know yet that this worker leaves
  bool closed = false;

  std::thread resolver;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopping = false;

  void count_welcomed() {
    int count = 0;
    int not_told = 0;
    for (const auto& [address, gateway] : gateways) {
      count += gateway.welcomed ? 1 : 0;
      not_told += gateway.welcomed && !gateway.knows_leaving ? 1 : 0;
    }
    dialled = static_cast<int>(gateways.size());
    unaware = not_told;
    welcomed = count;
  }

  void say_hello(const Gateway& gateway) {
    bus.send(gateway.socket, {.envelope = {.request_id = {}, .secret = secret, .body = hello}, .payload = {}});
  }

  // This gateway's share of an inferencer's credits. A trainer's says that it is idle, which every gateway may know.
  msg::Heartbeat share(const std::string& address, msg::Heartbeat whole) const {
    if (hello.role == msg::Role::kTrainer) return whole;
    std::uint32_t count = 0;
    std::uint32_t position = 0;
    for (const auto& [other, gateway] : gateways) {
      if (!gateway.welcomed) continue;
      if (other == address) position = count;
      ++count;
    }
    if (count == 0) return whole;
    // The remainder goes to some, other ones for each worker: else one gateway would have all of few credits.
    const auto turned = static_cast<std::uint32_t>((position + first_of_remainder) % count);
    whole.credits = whole.credits / count + (turned < whole.credits % count ? 1 : 0);
    return whole;
  }

  void beat(Clock::time_point now, bool at_once) {
    if (closed) return;
    const msg::Heartbeat whole = state();
    for (auto& [address, gateway] : gateways) {
      if (!at_once && now < gateway.next_beat) continue;
      gateway.next_beat = now + kHeartbeatEvery;
      if (!gateway.welcomed) {
        say_hello(gateway);
        continue;
      }
      const auto sent = bus.send(
          gateway.socket,
          {.envelope = {.correlation = whole.draining ? kLeaving : 0, .request_id = {}, .body = share(address, whole)},
           .payload = {}});
      if (!sent) spdlog::warn("heartbeat not sent address={} message={}", address, log_value(sent.error().message));
    }
  }

  void on_tick(Clock::time_point now) {
    for (auto at = gateways.begin(); at != gateways.end();) {
      const auto unheard = now - at->second.heard;
      if (unheard > times.unheard && at->second.welcomed) {
        spdlog::warn("gateway silent address={}", at->first);
        at->second.welcomed = false;
        count_welcomed();
      }
      if (unheard > times.silence && at->second.absences >= kAbsences) {
        spdlog::info("gateway forgotten address={}", at->first);
        bus.close(at->second.socket);
        at = gateways.erase(at);
        count_welcomed();
        continue;
      }
      ++at;
    }
    beat(now, false);
  }

  void on_message(const std::string& address, Incoming incoming) {
    const auto found = gateways.find(address);
    if (closed || found == gateways.end()) return;
    Gateway& gateway = found->second;
    gateway.heard = Clock::now();
    auto& body = incoming.message.envelope.body;
    if (std::holds_alternative<msg::Welcome>(body)) {
      if (!gateway.welcomed) {
        spdlog::info("gateway welcomed us address={} gateway={}", address,
                     log_value(std::get<msg::Welcome>(body).gateway_id));
      }
      gateway.welcomed = true;
      count_welcomed();
      beat(Clock::now(), true);
    } else if (std::holds_alternative<msg::Rehello>(body)) {
      say_hello(gateway);
    } else if (const auto* error = std::get_if<msg::Error>(&body)) {
      if (incoming.unread) {
        gateway.welcomed = false;  // the next hello goes in a protocol that it reads
        count_welcomed();
      } else if (incoming.message.envelope.correlation == 0) {
        spdlog::error("gateway refused us address={} message={}", address, log_value(error->message));
        gateway.welcomed = false;
        gateway.next_beat = Clock::now() + kRefusedFor;  // it may be replaced by one of our release
        count_welcomed();
      }
    } else if (std::holds_alternative<msg::Ok>(body)) {
      gateway.knows_leaving = gateway.knows_leaving || incoming.message.envelope.correlation == kLeaving;
      count_welcomed();
    } else {
      hand_over(std::move(incoming));
    }
  }

  // The asker hears at once of a request whose handler throws; the bus logs and counts it.
  void hand_over(Incoming incoming) {
    const SocketId socket = incoming.socket;
    const std::uint64_t correlation = incoming.message.envelope.correlation;
    try {
      on_request(std::move(incoming));
    } catch (...) {
      if (correlation != 0) {
        const Error error{.code = Code::kInternal, .message = "the worker could not handle the request", .path = {}};
        (void)bus.answer(
            socket, {},
            {.envelope = {.correlation = correlation, .request_id = {}, .body = to_message(error)}, .payload = {}});
      }
      throw;
    }
  }

  void found_addresses(const Addresses& addresses) {
    if (closed) return;
    for (auto& [address, gateway] : gateways) {
      if (addresses.found.contains(address)) {
        gateway.absences = 0;
      } else if (addresses.complete) {  // a name server that is away must not make us forget anybody
        ++gateway.absences;
      }
    }
    for (const auto& address : addresses.found) {
      if (gateways.contains(address)) continue;
      const std::weak_ptr<Impl> weak = weak_from_this();
      auto socket = bus.connect_dealer(address, [weak, address](Incoming incoming) {
        if (const auto self = weak.lock()) self->on_message(address, std::move(incoming));
      });
      if (!socket) {
        spdlog::error("cannot dial gateway address={} message={}", address, log_value(socket.error().message));
        continue;
      }
      gateways[address] = {.socket = *socket,
                           .welcomed = false,
                           .knows_leaving = false,
                           .absences = 0,
                           .heard = Clock::now(),
                           .next_beat = {}};
    }
    count_welcomed();
    beat(Clock::now(), false);
  }

  void find_gateways(const std::vector<std::string>& places) {
    bus.post([self = shared_from_this(), addresses = look_up(places)] { self->found_addresses(addresses); });
  }

  void resolve_loop(const std::vector<std::string>& places) {
    // Apart from each other, so that many workers do not ask the name server at once.
    std::minstd_rand random(static_cast<unsigned>(first_of_remainder));
    std::uniform_int_distribution<int> late_ms(0, static_cast<int>(times.resolve_every.count()) / 4);
    std::unique_lock lock(mutex);
    while (!stopping) {
      lock.unlock();
      try {
        find_gateways(places);
      } catch (const std::exception& failure) {
        spdlog::error("gateways not looked up message={}", log_value(failure.what()));
      }
      lock.lock();
      stop.wait_for(lock, times.resolve_every + std::chrono::milliseconds(late_ms(random)),
                    [this] { return stopping; });
    }
  }
};

WorkerLink::WorkerLink(Bus& bus, msg::Hello hello, std::vector<std::string> gateways, State state, OnRequest on_request,
                       std::string secret, Times times)
    : impl_(std::make_shared<Impl>(bus, std::move(hello), std::move(state), std::move(on_request), std::move(secret),
                                   times)) {
  const std::weak_ptr<Impl> weak = impl_;
  bus.on_tick([weak](Clock::time_point now) {
    if (const auto self = weak.lock(); self && !self->closed) self->on_tick(now);
  });
  impl_->resolver = std::thread([self = impl_.get(), places = std::move(gateways)] { self->resolve_loop(places); });
}

WorkerLink::~WorkerLink() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->stop.notify_all();
  impl_->resolver.join();
  impl_->bus.post([self = impl_] {
    self->closed = true;
    for (const auto& [address, gateway] : self->gateways) self->bus.close(gateway.socket);
    self->gateways.clear();
  });
}

void WorkerLink::announce() {
  impl_->bus.post([self = impl_] { self->beat(Clock::now(), true); });
}

int WorkerLink::dialled() const { return impl_->dialled; }
int WorkerLink::welcomed() const { return impl_->welcomed; }
bool WorkerLink::let_go() const { return impl_->unaware == 0; }

}  // namespace slipway

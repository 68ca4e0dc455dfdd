#include "services/gateway/worker_hub.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <set>
#include <unordered_map>

#include "lib/base/log.h"
#include "lib/base/random_id.h"
#include "lib/base/release.h"
#include "lib/base/secret.h"
#include "services/gateway/job_offers.h"
#include "services/gateway/metrics.h"

namespace slipway::gateway {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kProbeEvery = std::chrono::seconds(1);
constexpr auto kSilentAfter = std::chrono::seconds(5);
constexpr auto kKnockEvery = std::chrono::milliseconds(250);

// One handler that throws must not take the bus thread, and the process, with it. Returns whether there was none.
template <class Work>
bool guarded(std::string_view what, Work work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    metrics().handler_failures.Increment();
    spdlog::error("bus handler failed what={} message={}", what, log_value(error.what()));
    return false;
  }
}

}  // namespace

// Everything but the atomics is used on the bus thread only.
struct WorkerHub::State : std::enable_shared_from_this<WorkerHub::State> {
  struct Open {
    Question question;
    Answer answer;
  };

  State(Bus& b, Caller& r, RegistryCache& c, EventHub& e, const Settings& settings, std::string rel,
        std::string cluster)
      : bus(b),
        registry(r),
        cache(c),
        events(e),
        secret(std::move(cluster)),
        workers(std::move(rel)),
        router(workers, static_cast<std::size_t>(std::max<std::int64_t>(settings.max_queued_requests, 0)),
               Clock::now()),
        offers(workers) {}

  Bus& bus;
  Caller& registry;
  RegistryCache& cache;
  EventHub& events;
  const std::string gateway_id = random_hex(64);
  const std::string secret;
  SocketId socket{};  // where workers' messages come from: known with the first of them
  WorkerTable workers;
  InferenceRouter router;
  JobOffers offers;
  LoadRounds rounds;
  std::map<LoadRounds::RoundId, Loaded> loads;
  std::uint64_t next_round = 1;
  std::unordered_map<std::uint64_t, Open> open;
  std::uint64_t counted_retries = 0;
  std::uint64_t refused = 0;
  std::set<Peer> unreachable;  // gone, but what they said last may not be read yet
  Clock::time_point next_probe{};
  Clock::time_point next_knock{};
  bool probing = false;
  bool closed = false;
  std::atomic<std::uint64_t> next_request{1};
  Clock::rep registry_heard = 0;
  std::atomic<int> inferencer_count{0};
  std::atomic<int> trainer_count{0};

  [[nodiscard]] bool registry_reachable(Clock::time_point now) const {
    const Clock::time_point heard{Clock::duration(registry_heard)};
    return heard != Clock::time_point{} && now - heard < kSilentAfter;
  }

  void heard_registry() { registry_heard = Clock::now().time_since_epoch().count(); }

  void send(const Peer& peer, std::uint64_t correlation, msg::Body body) {
    bus.send(socket, peer,
             {.envelope = {.correlation = correlation, .deadline_ms = 0, .request_id = {}, .body = std::move(body)},
              .payload = {}});
  }

  static msg::Body alone(msg::Body body) {
    if (auto* infer = std::get_if<msg::Infer>(&body)) infer->alone = true;
    return body;
  }

  void finish(RequestId id, Result<Message> result) {
    const auto found = open.find(static_cast<std::uint64_t>(id));
    if (found == open.end()) return;
    Answer answer = std::move(found->second.answer);
    open.erase(found);
    answer(std::move(result));
  }

  void withdraw(RequestId id) {
    InferenceRouter::Actions routed;
    router.cancel(id, Clock::now(), routed);
    run(std::move(routed));
  }

  void close() {
    closed = true;
    auto asked = std::exchange(open, {});
    for (auto& [id, request] : asked) request.answer(fail(Code::kUnavailable, "this gateway is stopping"));
    for (auto& [round, done] : std::exchange(loads, {})) done({stopping()});
  }

  static LoadRounds::Outcome stopping() {
    return {.inferencer = "any", .version = {}, .loaded = fail(Code::kUnavailable, "this gateway is stopping")};
  }

  void load(const std::vector<msg::VersionKey>& versions, Clock::time_point deadline, const std::string& request_id,
            Loaded done) {
    if (closed) return done({stopping()});
    const LoadRounds::RoundId round{next_round++};
    loads.emplace(round, std::move(done));
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    for (const auto& question : rounds.begin(round, workers, versions, deadline)) {
      const auto sent = bus.send(
          socket, question.peer,
          {.envelope = {.correlation = question.correlation,
                        .deadline_ms = static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, UINT32_MAX)),
                        .request_id = request_id,
                        .body = msg::LoadVersion{.version = question.version}},
           .payload = {}});
      if (!sent) (void)rounds.on_answer(question.peer, question.correlation, std::unexpected(sent.error()));
    }
    end_rounds();
  }

  void end_rounds() {
    for (auto& ended : rounds.take_ended()) {
      if (auto done = loads.extract(ended.round)) done.mapped()(std::move(ended.outcomes));
    }
  }

  // Whether it answers what somebody was asked to load.
  bool is_load_answer(const Peer& peer, std::uint64_t correlation, const msg::Body& body) {
    if (correlation < LoadRounds::kFirstCorrelation) return false;
    Result<void> loaded = fail(Code::kInternal, "the inferencer answered with something else");
    if (std::holds_alternative<msg::Ok>(body)) loaded = {};
    if (const auto* error = std::get_if<msg::Error>(&body)) loaded = std::unexpected(from_message(*error));
    if (!rounds.on_answer(peer, correlation, std::move(loaded))) return false;
    end_rounds();
    return true;
  }

  [[nodiscard]] Fleet look() const {
    Fleet fleet;
    for (const Peer& peer : workers.serving_peers()) {
      ++fleet.inferencers;
      for (const auto& version : workers.find(peer)->loaded) ++fleet.loaded[version];
    }
    return fleet;
  }

  // Index loop: what an action does may add more.
  void run(InferenceRouter::Actions actions) {
    for (std::size_t i = 0; i < actions.size(); ++i) {
      if (const auto* send_to = std::get_if<SendTo>(&actions[i])) {
        const auto found = open.find(static_cast<std::uint64_t>(send_to->request));
        if (found == open.end()) continue;
        const Question& question = found->second.question;
        const auto sent = bus.send(socket, send_to->peer,
                                   {.envelope = {.correlation = send_to->attempt,
                                                 .deadline_ms = static_cast<std::uint32_t>(
                                                     std::min<std::int64_t>(send_to->left.count(), UINT32_MAX)),
                                                 .request_id = question.request_id,
                                                 .body = send_to->alone ? alone(question.body) : question.body},
                                    .payload = question.payload});
        const std::uint64_t attempt = send_to->attempt;
        const Peer peer = send_to->peer;
        if (!sent && sent.error().code == Code::kTooLarge) {
          router.on_error(peer, attempt, sent.error(), Clock::now(), actions);  // it would be so at any other one
        } else if (!sent) {
          router.on_send_failed(attempt, Clock::now(), actions);
        }
      } else if (const auto* cancel_at = std::get_if<CancelAt>(&actions[i])) {
        const CancelAt copy = *cancel_at;
        send(copy.peer, 0, msg::Cancel{.correlation = copy.attempt});
      } else if (auto* failed = std::get_if<Failed>(&actions[i])) {
        if (failed->error.code == Code::kOverloaded) metrics().shed.Increment();
        finish(failed->request, std::unexpected(std::move(failed->error)));
      }
    }
    metrics().queued.Set(static_cast<double>(router.queued()));
    metrics().outstanding.Set(static_cast<double>(router.open()));
    if (router.retries() > counted_retries)
      metrics().retries.Increment(static_cast<double>(router.retries() - counted_retries));
    counted_retries = router.retries();
  }

  // A trainer that hears of one twice, late or in vain loses nothing.
  void offer_jobs() {
    for (const auto& [peer, job] : offers.offers(Clock::now())) {
      metrics().jobs_offered.Increment();
      send(peer, 0, msg::OfferJob{.job = job});
    }
  }

  void removed(const WorkerTable::Removed& one, std::string_view why) {
    const auto& [peer, worker] = one;
    if (worker.has_left()) {
      spdlog::info("worker left worker={}", log_value(worker.id.text()));
    } else {
      spdlog::warn("worker lost worker={} host={} reason={}", log_value(worker.id.text()), log_value(worker.host),
                   log_value(why));
      metrics().workers_lost.Increment();
    }
    InferenceRouter::Actions routed;
    router.on_peer_lost(peer, Clock::now(), routed);
    run(std::move(routed));
    rounds.on_peer_lost(peer);
    end_rounds();
  }

  void count_workers() {
    inferencer_count = workers.serving_inferencers();
    metrics().inferencers.Set(workers.count(msg::Role::kInferencer));
    trainer_count = workers.count(msg::Role::kTrainer);
    metrics().trainers.Set(trainer_count);
  }

  void credit_came() {
    InferenceRouter::Actions routed;
    router.pump(Clock::now(), routed);
    run(std::move(routed));
    offer_jobs();
  }

  void refuse(const Peer& peer, std::uint64_t correlation, const msg::Hello& hello, const Error& why) {
    if (const auto count = ++refused; is_worth_a_line(count)) {
      spdlog::warn("worker refused count={} worker={} host={} release={} message={}", count,
                   log_value(hello.worker_id.text()), log_value(hello.host), log_value(hello.release),
                   log_value(why.message));
    }
    send(peer, correlation, to_message(why));
  }

  void on_hello(const Peer& peer, const msg::Envelope& envelope, const msg::Hello& hello) {
    const std::uint64_t correlation = envelope.correlation;
    if (!secret.empty() && !same_secret(envelope.secret, secret)) {
      return refuse(peer, correlation, hello,
                    {.code = Code::kConflict,
                     .message = "the worker does not show this installation's cluster secret",
                     .path = {}});
    }
    const bool known = workers.find(peer) != nullptr;
    const auto replaced = workers.on_hello(peer, hello, Clock::now());
    if (!replaced) return refuse(peer, correlation, hello, replaced.error());
    for (const WorkerTable::Removed& old : *replaced) removed(old, "replaced by a new start");
    if (!known) {
      spdlog::info("worker joined worker={} host={} role={}", log_value(hello.worker_id.text()), log_value(hello.host),
                   hello.role == msg::Role::kTrainer ? "trainer" : "inferencer");
    }
    unreachable.erase(peer);
    send(peer, correlation, msg::Welcome{.gateway_id = gateway_id});
    count_workers();
  }

  void on_message(Incoming incoming) {
    if (closed) return;
    socket = incoming.socket;
    const auto& envelope = incoming.message.envelope;
    const std::uint64_t correlation = envelope.correlation;
    if (const auto* hello = std::get_if<msg::Hello>(&envelope.body)) return on_hello(incoming.peer, envelope, *hello);
    if (const auto* heartbeat = std::get_if<msg::Heartbeat>(&envelope.body)) {
      if (!workers.on_heartbeat(incoming.peer, *heartbeat, Clock::now())) return send(incoming.peer, 0, msg::Rehello{});
      if (correlation != 0) {
        send(incoming.peer, correlation,
             msg::Ok{});  // behind all that it was sent before: it may leave once it reads this
      } else {
        (void)bus.knock(socket, incoming.peer);  // a worker gives up a gateway that never says a word
      }
      return credit_came();
    }
    if (workers.find(incoming.peer) == nullptr) return send(incoming.peer, 0, msg::Rehello{});
    if (is_load_answer(incoming.peer, correlation, envelope.body)) return;
    if (const auto* error = std::get_if<msg::Error>(&envelope.body)) {
      const Error decoded = from_message(*error);
      InferenceRouter::Actions routed;
      router.on_error(incoming.peer, correlation, decoded, Clock::now(), routed);
      return run(std::move(routed));
    }
    if (std::holds_alternative<msg::Ok>(envelope.body)) return;
    // An answer of a later release's kind fails what was asked; a question of it is told so, as nothing was.
    if (std::holds_alternative<msg::Nothing>(envelope.body) && correlation != 0) {
      send(incoming.peer, correlation,
           to_message({.code = Code::kUnsupported,
                       .message = std::format("a gateway of release {} does not know this kind of message", kRelease),
                       .path = {}}));
    }
    InferenceRouter::Actions routed;
    if (!std::holds_alternative<msg::Inferred>(envelope.body) &&
        !std::holds_alternative<msg::Inspected>(envelope.body)) {
      router.on_error(incoming.peer, correlation,
                      {.code = Code::kInternal, .message = "the inferencer answered with something else", .path = {}},
                      Clock::now(), routed);
      return run(std::move(routed));
    }
    const auto id = router.on_answer(incoming.peer, correlation, Clock::now(), routed);
    if (id) finish(*id, std::move(incoming.message));
    run(std::move(routed));
  }

  void on_event(const Incoming& incoming) {
    const auto* changed = std::get_if<msg::Changed>(&incoming.message.envelope.body);
    if (closed || changed == nullptr) return;
    heard_registry();
    cache.on_changed(*changed);
    events.on_changed(*changed);
    if (changed->subject == msg::Subject::kJob) {
      offers.on_job(JobId(changed->key), changed->state, Clock::now());
      offer_jobs();
    }
  }

  // A cheap question every second tells whether the registry lives, events or not.
  void probe(Clock::time_point now) {
    if (probing || now < next_probe) return;
    probing = true;
    next_probe = now + kProbeEvery;
    registry.call(msg::ListModels{.after = {}, .limit = 1}, {},
                  {.deadline = std::chrono::seconds(2), .repeat_after = {}, .request_id = {}},
                  [weak = weak_from_this()](const Result<Message>& answer) {
                    const auto self = weak.lock();
                    if (!self) return;
                    self->probing = false;
                    if (answer) self->heard_registry();
                  });
  }

  // A worker that died closed its connection; a message to it says so long before its heartbeats are missed.
  void knock(Clock::time_point now) {
    if (now < next_knock) return;
    next_knock = now + kKnockEvery;
    for (const Peer& peer : workers.busy()) (void)bus.knock(socket, peer);
  }

  // Answers that it sent before it went may still be unread, and decide what is tried again: they are read by the next
  // tick. It gets nothing more meanwhile.
  void on_unreachable(const Peer& peer) {
    if (closed || workers.find(peer) == nullptr) return;
    workers.use_up(peer);
    unreachable.insert(peer);
  }

  void drop_unreachable() {
    for (const Peer& peer : std::exchange(unreachable, {})) {
      if (const auto one = workers.remove(peer)) removed(*one, "its connection is gone");
    }
  }

  void on_tick(Clock::time_point now) {
    if (closed) return;
    drop_unreachable();
    knock(now);
    for (const WorkerTable::Removed& one : workers.remove_silent(now)) removed(one, "no heartbeat for 5 s");
    count_workers();
    InferenceRouter::Actions routed;
    router.on_tick(now, routed);
    run(std::move(routed));
    rounds.on_tick(now);
    end_rounds();
    offer_jobs();
    probe(now);
    metrics().registry_up.Set(registry_reachable(now) ? 1 : 0);
  }
};

WorkerHub::WorkerHub(Bus& bus, Caller& registry, RegistryCache& cache, EventHub& events, const Settings& settings,
                     std::string release, std::string secret)
    : state_(std::make_shared<State>(bus, registry, cache, events, settings, std::move(release), std::move(secret))) {}

WorkerHub::~WorkerHub() {
  state_->bus.post([state = state_] { state->close(); });
}

void WorkerHub::close() {
  const auto closed = std::make_shared<std::promise<void>>();
  state_->bus.post([state = state_, closed] {
    state->close();
    closed->set_value();
  });
  closed->get_future().wait();
}

Result<void> WorkerHub::start(const std::string& address) {
  const std::weak_ptr<State> weak = state_;
  auto router = state_->bus.bind_router(
      address,
      [weak](Incoming incoming) {
        if (const auto state = weak.lock()) guarded("message", [&] { state->on_message(std::move(incoming)); });
      },
      [weak](const Peer& peer) {
        if (const auto state = weak.lock()) guarded("unreachable", [&] { state->on_unreachable(peer); });
      });
  if (!router) return std::unexpected(router.error());
  port_ = state_->bus.port(*router);
  state_->bus.on_tick([weak](Clock::time_point now) {
    if (const auto state = weak.lock()) guarded("tick", [&] { state->on_tick(now); });
  });
  return {};
}

Result<void> WorkerHub::subscribe(const std::string& events) {
  const std::weak_ptr<State> weak = state_;
  auto socket = state_->bus.connect_subscriber(events, [weak](const Incoming& incoming) {
    if (const auto state = weak.lock()) guarded("event", [&] { state->on_event(incoming); });
  });
  if (!socket) return std::unexpected(socket.error());
  return {};
}

int WorkerHub::port() const { return port_; }

RequestId WorkerHub::ask(Question question, Answer answer) {
  const RequestId id{state_->next_request++};
  state_->bus.post([state = state_, id, question = std::move(question), answer = std::move(answer)]() mutable {
    if (state->closed) return answer(fail(Code::kUnavailable, "this gateway is stopping"));
    Routed request{.version = question.loaded,
                   .uploaded = question.uploaded,
                   .rows = question.rows,
                   .deadline = question.deadline};
    state->open.emplace(static_cast<std::uint64_t>(id),
                        State::Open{.question = std::move(question), .answer = std::move(answer)});
    const bool asked = guarded("question", [&] {
      InferenceRouter::Actions routed;
      state->router.submit(id, std::move(request), Clock::now(), routed);
      state->run(std::move(routed));
    });
    if (asked) return;
    // What was begun of it is taken back, as far as there is something.
    guarded("question", [&] { state->withdraw(id); });
    state->finish(id, fail(Code::kInternal, "the request could not be sent to an inferencer"));
  });
  return id;
}

void WorkerHub::cancel(RequestId id) {
  state_->bus.post([state = state_, id] {
    guarded("cancel", [&] { state->withdraw(id); });
    state->finish(id, fail(Code::kUnavailable, "the client has gone"));
  });
}

void WorkerHub::load(std::vector<msg::VersionKey> versions, Clock::time_point deadline, std::string request_id,
                     Loaded done) {
  state_->bus.post(
      [state = state_, versions = std::move(versions), deadline, request_id = std::move(request_id),
       done = std::move(done)]() mutable { state->load(versions, deadline, request_id, std::move(done)); });
}

void WorkerHub::look(std::function<void(Fleet)> done) const {
  state_->bus.post([state = state_, done = std::move(done)] { done(state->look()); });
}

void WorkerHub::stop_offers() {
  state_->bus.post([state = state_] { state->offers.stop(); });
}

int WorkerHub::inferencers() const { return state_->inferencer_count; }
int WorkerHub::trainers() const { return state_->trainer_count; }

}  // namespace slipway::gateway

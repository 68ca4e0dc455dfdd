#include "services/trainer/trainer_server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <format>
#include <mutex>
#include <optional>
#include <thread>

#include "lib/base/log.h"
#include "lib/base/machine.h"
#include "lib/base/random_id.h"
#include "lib/torch_runtime/memory.h"
#include "lib/wire/file_cache.h"
#include "lib/wire/worker_link.h"
#include "services/trainer/attempt.h"
#include "services/trainer/metrics.h"

namespace slipway::trainer {
namespace {

using Clock = std::chrono::steady_clock;

// Offers may be lost, and gateways may be away: an idle trainer asks by itself too, some seconds after its last claim.
constexpr auto kAskEvery = std::chrono::seconds(5);
constexpr auto kClaimDeadline = std::chrono::seconds(30);
constexpr auto kRepeatClaim = std::chrono::seconds(2);
constexpr auto kLastAnswers = std::chrono::seconds(2);

}  // namespace

struct TrainerServer::State {
  explicit State(Options given) : options(std::move(given)) {}

  const Options options;
  Bus bus{{.names_over_ipv6 = options.names_over_ipv6}};
  std::unique_ptr<Caller> registry;
  std::unique_ptr<WorkerLink> link;
  std::atomic<bool> linked{false};  // `link` may be used
  const WorkerId worker{"trainer-" + random_hex(64)};

  std::mutex mutex;
  std::condition_variable changed;
  std::optional<msg::RunJob> next;  // claimed, not begun
  bool running = false;             // from the claim until the attempt has ended
  std::unique_ptr<Attempt> attempt;
  bool draining = false;
  bool ended = false;  // the training thread has
  int asked = 0;       // claims and jobs given back whose answers have not come
  std::thread trainer;

  // Bus thread only.
  bool claiming = false;
  bool offered = false;            // while a claim was under way, which may have come too early
  std::uint64_t claim_number = 1;  // of the next claim, or of the one whose answer has not come
  Clock::time_point next_claim{};  // without an offer

  void announce() {
    if (linked) link->announce();
  }

  msg::Heartbeat heartbeat() {
    const std::lock_guard lock(mutex);
    msg::Heartbeat beat;
    beat.credits = running || draining ? 0 : 1;
    beat.draining = draining;
    return beat;
  }

  [[nodiscard]] bool is_idle() {
    const std::lock_guard lock(mutex);
    return !running && !draining;
  }

  void on_request(const Incoming& incoming) {
    const auto& envelope = incoming.message.envelope;
    if (std::holds_alternative<msg::Cancel>(envelope.body)) return;
    if (std::holds_alternative<msg::OfferJob>(envelope.body)) {
      offered = true;
      return claim();
    }
    if (envelope.correlation == 0) return;
    Message refusal;
    refusal.envelope.correlation = envelope.correlation;
    refusal.envelope.body = to_message(
        {.code = Code::kUnsupported, .message = "a trainer takes offers of jobs, and nothing else", .path = {}});
    (void)bus.answer(incoming.socket, incoming.peer, std::move(refusal));
  }

  // Asks the registry for a job, if this trainer has none. The same number until an answer has come: a job whose answer
  // was lost comes again.
  void claim() {
    if (claiming || !is_idle()) return;
    claiming = true;
    offered = false;
    count_asked(1);
    next_claim = Clock::now() + kAskEvery;
    registry->call(msg::ClaimJob{.worker = worker, .number = claim_number}, {},
                   {.deadline = kClaimDeadline, .repeat_after = kRepeatClaim, .request_id = {}},
                   [this](Result<Message> answer) {
                     on_claimed(Caller::as<msg::RunJob>(std::move(answer)));
                     count_asked(-1);
                   });
  }

  void count_asked(int change) {
    const std::lock_guard lock(mutex);
    asked += change;
    changed.notify_all();
  }

  void on_claimed(Result<msg::RunJob> run) {
    claiming = false;
    const bool answered = run || run.error().code == Code::kNotFound;
    if (answered) ++claim_number;
    if (run) return take(std::move(*run));
    if (!answered)
      spdlog::warn("no claim code={} message={}", code_name(run.error().code), log_value(run.error().message));
    if (answered && offered) claim();
  }

  void take(msg::RunJob order) {
    if (order.job.id.empty() || order.lease.job != order.job.id) {
      spdlog::error("the registry's answer to a claim is no job with its lease");
      return;
    }
    bool stopping = false;
    {
      const std::lock_guard lock(mutex);
      stopping = draining;
      if (!stopping) {
        running = true;
        next = std::move(order);
      }
    }
    if (stopping) return give_back(std::move(order.lease));
    changed.notify_all();
    announce();
  }

  // A job that came too late: nobody waits for what becomes of this, the lease runs out all the same.
  void give_back(Lease lease) {
    count_asked(1);
    registry->call(msg::EndAttempt{.lease = std::move(lease),
                                   .outcome = msg::Outcome::kReleased,
                                   .reason = {},
                                   .message = "the trainer is stopping",
                                   .retry = false},
                   {}, {.deadline = kClaimDeadline, .repeat_after = kRepeatClaim, .request_id = {}},
                   [this](const Result<Message>& answer) {
                     if (!answer) spdlog::warn("giving back failed message={}", log_value(answer.error().message));
                     count_asked(-1);
                   });
  }

  void on_tick(Clock::time_point now) {
    if (linked && now >= next_claim) claim();
  }

  void run() {
    for (;;) {
      std::optional<msg::RunJob> order;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return next || draining; });
        if (!next) break;
        order.swap(next);
      }
      metrics().busy.Set(1);
      guarded("attempt", [&] { run(std::move(*order)); });
      metrics().busy.Set(0);
      {
        const std::lock_guard lock(mutex);
        attempt.reset();
        running = false;
      }
      guarded("memory", give_memory_back);
      guarded("announce", [this] {
        announce();
        bus.post([this] { claim(); });
      });
    }
    const std::lock_guard lock(mutex);
    ended = true;
    changed.notify_all();
  }

  void run(msg::RunJob order) {
    auto made = std::make_unique<Attempt>(*registry, std::move(order), options.attempt);
    Attempt& current = *made;
    {
      const std::lock_guard lock(mutex);
      attempt = std::move(made);
      if (draining) current.release();
    }
    (void)current.run();  // it has told the registry and the log
  }

  // What goes wrong while an attempt trains it tells the registry itself; beyond that its lease is left to run out.
  template <class Work>
  static void guarded(const char* what, Work work) {
    try {
      work();
    } catch (const std::exception& e) {
      spdlog::error("training thread failed at={} reason={}", what, log_value(e.what()));
    }
  }
};

Result<std::unique_ptr<TrainerServer>> TrainerServer::start(Options options) {
  auto state = std::make_unique<State>(std::move(options));
  auto* s = state.get();
  FileCache(data_folder(s->options.attempt), s->options.attempt.cache_bytes).make_room();
  metrics().busy.Set(0);  // shows the trainer's metrics from the start on
  s->registry = std::make_unique<Caller>(s->bus, s->options.registry, s->options.cluster_secret);
  s->trainer = std::thread([s] { s->run(); });
  msg::Hello hello;
  hello.release = s->options.release;
  hello.role = msg::Role::kTrainer;
  hello.worker_id = s->worker;
  hello.host = host_name();
  s->link = std::make_unique<WorkerLink>(
      s->bus, hello, s->options.gateways, [s] { return s->heartbeat(); },
      [s](const Incoming& incoming) { s->on_request(incoming); }, s->options.cluster_secret);
  s->linked = true;
  s->bus.on_tick([s](Clock::time_point now) { s->on_tick(now); });
  return std::unique_ptr<TrainerServer>(new TrainerServer(std::move(state)));
}

TrainerServer::TrainerServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

TrainerServer::~TrainerServer() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->draining = true;
    if (state_->attempt) state_->attempt->release();
  }
  state_->changed.notify_all();
  state_->trainer.join();
  state_->linked = false;
  state_->link.reset();
  state_->bus.stop();  // answers what was asked; nothing is asked after it
  state_->registry.reset();
}

std::string TrainerServer::not_ready() const {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->draining) return "stopping";
  }
  if (state_->link->welcomed() == 0) return "no gateway has welcomed this trainer";
  return {};
}

bool TrainerServer::drain(std::chrono::milliseconds deadline) {
  auto& s = *state_;
  {
    const std::lock_guard lock(s.mutex);
    s.draining = true;
    if (s.attempt) s.attempt->release();
  }
  s.changed.notify_all();
  s.announce();
  const auto until = Clock::now() + deadline;
  std::unique_lock lock(s.mutex);
  if (!s.changed.wait_until(lock, until, [&s] { return s.ended; })) return false;
  // The answer to a claim may bring a job, which is given back then: nobody should have to wait for its lease to run
  // out.
  s.changed.wait_until(lock, std::min(until, Clock::now() + kLastAnswers), [&s] { return s.asked == 0; });
  return true;
}

}  // namespace slipway::trainer

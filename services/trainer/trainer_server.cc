#include "services/trainer/trainer_server.h"

#include <spdlog/spdlog.h>

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
namespace {}  // namespace

struct TrainerServer::State {
  explicit State(Options given) : options(std::move(given)) {}

  const Options options;
  Bus bus;
  std::unique_ptr<Caller> registry;
  std::unique_ptr<WorkerLink> link;
  std::atomic<bool> linked{false};  // `link` may be used

  std::mutex mutex;
  std::condition_variable changed;
  std::optional<msg::RunJob> next;  // taken, not begun
  std::optional<Lease> running;     // from being taken until the attempt has ended
  std::unique_ptr<Attempt> attempt;
  bool draining = false;
  bool ended = false;  // the training thread has
  std::thread trainer;

  void answer(const Incoming& to, msg::Body body) {
    const auto correlation = to.message.envelope.correlation;
    if (correlation == 0) return;
    Message message;
    message.envelope.correlation = correlation;
    message.envelope.body = std::move(body);
    if (const auto sent = bus.answer(to.socket, to.peer, std::move(message)); !sent) {
      spdlog::warn("answer dropped code={} message={}", code_name(sent.error().code), log_value(sent.error().message));
    }
  }

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

  // Bus thread, which must not end by what a message makes go wrong.
  void on_request(Incoming incoming) {
    try {
      take(incoming);
    } catch (const std::exception& e) {
      spdlog::error("request failed reason={}", log_value(e.what()));
      answer(incoming, to_message(Error{.code = Code::kInternal, .message = e.what(), .path = {}}));
    }
  }

  void take(Incoming& incoming) {
    auto* order = std::get_if<msg::RunJob>(&incoming.message.envelope.body);
    if (order == nullptr) {
      if (std::holds_alternative<msg::Cancel>(incoming.message.envelope.body)) return;
      answer(incoming,
             to_message(Error{.code = Code::kUnsupported, .message = "a trainer only runs jobs", .path = {}}));
      return;
    }
    if (order->job.id.empty() || order->lease.job != order->job.id) {
      answer(incoming,
             to_message(Error{.code = Code::kInvalidArgument, .message = "a job without its lease", .path = {}}));
      return;
    }
    std::optional<Error> refused;
    {
      const std::lock_guard lock(mutex);
      if (draining) {
        refused = Error{.code = Code::kOverloaded, .message = "this trainer is stopping", .path = {}};
      } else if (running && *running != order->lease) {
        refused = Error{.code = Code::kOverloaded,
                        .message = std::format("this trainer runs job {}", running->job.text()),
                        .path = {}};
      } else if (!running) {  // else: the same order again, its answer was lost
        running = order->lease;
        next = std::move(*order);
      }
    }
    if (refused) {
      answer(incoming, to_message(*refused));
      return;
    }
    answer(incoming, msg::Ok{});
    changed.notify_all();
    announce();
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
        running.reset();
      }
      guarded("memory", give_memory_back);
      guarded("announce", [this] { announce(); });
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
  hello.worker_id = WorkerId("trainer-" + random_hex(64));
  hello.host = host_name();
  s->link = std::make_unique<WorkerLink>(
      s->bus, hello, s->options.gateways, [s] { return s->heartbeat(); },
      [s](Incoming incoming) { s->on_request(std::move(incoming)); }, s->options.cluster_secret);
  s->linked = true;
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
  state_->registry.reset();
  state_->bus.stop();
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
  std::unique_lock lock(s.mutex);
  return s.changed.wait_for(lock, deadline, [&s] { return s.ended; });
}

}  // namespace slipway::trainer

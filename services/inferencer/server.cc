#include "services/inferencer/server.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <format>
#include <map>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/random_id.h"
#include "lib/base/sha256.h"
#include "lib/wire/file_cache.h"
#include "lib/wire/worker_link.h"
#include "services/inferencer/metrics.h"
#include "services/inferencer/quarantine.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxInspections = 8;  // waiting

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

// A request whose version is being loaded.
struct Parked {
  Asker asker;
  msg::Infer infer;
  std::vector<Frame> payload;
  std::optional<Clock::time_point> deadline;
  std::size_t bytes = 0;
};

struct Inspection {
  Asker asker;
  msg::Inspect inspect;
};

}  // namespace

struct Server::State {
  explicit State(Options given) : options(watched(std::move(given), watchdog)), engine(options.engine) {}

  static Options watched(Options given, Watchdog& watchdog) {
    given.engine.watchdog = &watchdog;
    given.store.watchdog = &watchdog;
    return given;
  }

  Watchdog watchdog;
  const Options options;
  bool stuck = false;  // bus thread only
  Bus bus;
  Engine engine;
  std::unique_ptr<Caller> registry;
  std::unique_ptr<VersionStore> store;
  std::unique_ptr<WorkerLink> link;
  std::atomic<bool> linked{false};  // `link` may be used
  std::atomic<bool> draining{false};
  std::atomic<std::size_t> parked_count{0};

  // Bus thread only.
  std::map<msg::VersionKey, std::vector<Parked>> parked;
  std::size_t parked_bytes = 0;

  std::mutex inspect_mutex;
  std::condition_variable inspect_wake;
  std::deque<Inspection> inspections;
  bool inspecting = false;
  bool stopping = false;
  std::stop_source stop_inspecting;
  std::thread inspector;

  void answer(const Asker& asker, msg::Body body, std::vector<Frame> payload = {}) {
    if (asker.correlation == 0) return;
    const auto sent = bus.answer(
        asker.socket, asker.peer,
        {.envelope = {.correlation = asker.correlation, .deadline_ms = 0, .request_id = {}, .body = std::move(body)},
         .payload = std::move(payload)});
    if (!sent) {
      spdlog::warn("answer dropped code={} message={}", code_name(sent.error().code), log_value(sent.error().message));
    }
  }
  void refuse(const Asker& asker, const Error& error) {
    metrics().requests.Add({{"code", std::string(code_name(error.code))}}).Increment();
    answer(asker, to_message(error));
  }

  msg::Heartbeat heartbeat() const {
    const bool leaving = draining;
    return {.credits = leaving ? 0 : options.max_requests,
            .loaded = store ? store->ready() : std::vector<msg::VersionKey>{},
            .draining = leaving};
  }

  void on_request(Incoming incoming);
  void infer(const std::shared_ptr<const LoadedVersion>& version, Parked request);
  void park(const msg::VersionKey& key, Parked request);
  std::vector<Parked> unpark(const msg::VersionKey& key);
  void on_ready(const msg::VersionKey& key);
  void on_failed(const msg::VersionKey& key, const Error& error);
  void cancel(const Asker& asker);
  void on_tick(Clock::time_point now);
  void look_for_stuck(Clock::time_point now);
  void inspect_loop();
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(Options options) {
  auto state = std::make_unique<State>(std::move(options));
  State& self = *state;
  metrics();  // all there from the start, at 0
  sweep_partial_downloads(self.options.store.cache_dir);
  self.registry = std::make_unique<Caller>(self.bus, self.options.registry);
  self.store = std::make_unique<VersionStore>(
      *self.registry, self.engine, self.options.store,
      VersionStore::Events{
          .on_ready = [&self](const msg::VersionKey& key) { self.bus.post([&self, key] { self.on_ready(key); }); },
          .on_failed =
              [&self](const msg::VersionKey& key, Error error) {
                self.bus.post([&self, key, error = std::move(error)] { self.on_failed(key, error); });
              }});
  std::unique_ptr<Server> server(new Server(std::move(state)));
  self.inspector = std::thread([&self] { self.inspect_loop(); });
  auto events = self.bus.connect_subscriber(self.options.registry_events, [&self](const Incoming& incoming) {
    if (const auto* changed = std::get_if<msg::Changed>(&incoming.message.envelope.body))
      self.store->on_changed(*changed);
  });
  if (!events) return std::unexpected(std::move(events).error());
  self.bus.on_tick([&self](Clock::time_point now) { self.on_tick(now); });
  self.link = std::make_unique<WorkerLink>(
      self.bus,
      msg::Hello{.release = self.options.release,
                 .role = msg::Role::kInferencer,
                 .worker_id = WorkerId(random_hex(128)),
                 .host = host_name()},
      self.options.gateways, [&self] { return self.heartbeat(); },
      [&self](Incoming incoming) { self.on_request(std::move(incoming)); });
  self.linked = true;
  return server;
}

void Server::State::on_request(Incoming incoming) {
  auto& envelope = incoming.message.envelope;
  Asker asker{.socket = incoming.socket, .peer = incoming.peer, .correlation = envelope.correlation};
  if (auto* infer_body = std::get_if<msg::Infer>(&envelope.body)) {
    Parked request{.asker = std::move(asker),
                   .infer = std::move(*infer_body),
                   .payload = std::move(incoming.message.payload),
                   .deadline = {},
                   .bytes = 0};
    if (envelope.deadline_ms > 0) request.deadline = Clock::now() + std::chrono::milliseconds(envelope.deadline_ms);
    const msg::VersionKey key{request.infer.model, request.infer.version};
    // Asked first, which also says that it is used: it then is not unloaded before it is found.
    const auto standing = store->ask(key);
    const auto version = engine.find(key);
    if (version) {
      infer(version, std::move(request));
    } else if (!standing) {
      refuse(request.asker, standing.error());
    } else {
      park(key, std::move(request));
      // It may have gone between the two questions.
      if (*standing) on_ready(key);
    }
  } else if (const auto* cancelled = std::get_if<msg::Cancel>(&envelope.body)) {
    asker.correlation = cancelled->correlation;
    cancel(asker);
  } else if (auto* inspect = std::get_if<msg::Inspect>(&envelope.body)) {
    {
      const std::lock_guard lock(inspect_mutex);
      if (inspections.size() < kMaxInspections) {
        inspections.push_back({std::move(asker), std::move(*inspect)});
        inspect_wake.notify_one();
        return;
      }
    }
    answer(asker, to_message({.code = Code::kOverloaded,
                              .message = std::format("{} uploaded files wait to be inspected", kMaxInspections),
                              .path = {}}));
  } else {
    answer(asker, to_message({.code = Code::kUnsupported,
                              .message = "an inferencer does not answer this kind of message",
                              .path = {}}));
  }
}

void Server::State::infer(const std::shared_ptr<const LoadedVersion>& version, Parked request) {
  auto inputs = check_inputs(request.infer.model, version->signature, std::move(request.infer.inputs),
                             std::move(request.payload));
  if (!inputs) return refuse(request.asker, inputs.error());
  const Asker asker = request.asker;
  engine.submit(version->key, std::move(*inputs), std::move(request.asker), request.deadline,
                [this, asker](Result<Answer> result) {
                  if (!result) {
                    Error error = std::move(result).error();
                    // Unloaded since it was found: another try loads it again.
                    if (error.code == Code::kNotFound) error.code = Code::kUnavailable;
                    return answer(asker, to_message(error));
                  }
                  const auto us = [](std::chrono::microseconds time) {
                    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(time.count(), 0, UINT32_MAX));
                  };
                  answer(asker,
                         msg::Inferred{.outputs = std::move(result->outputs),
                                       .batch_rows = static_cast<std::uint32_t>(result->batch_rows),
                                       .queue_us = us(result->queued),
                                       .compute_us = us(result->computed)},
                         std::move(result->payload));
                });
}

void Server::State::park(const msg::VersionKey& key, Parked request) {
  for (const Frame& frame : request.payload) request.bytes += frame.size();
  if (parked_count >= options.max_requests || parked_bytes + request.bytes > options.engine.max_queued_bytes) {
    return refuse(request.asker,
                  {.code = Code::kOverloaded,
                   .message = std::format("Exceeds maximum queue size: {} requests wait for versions to be loaded",
                                          parked_count.load()),
                   .path = {}});
  }
  parked_bytes += request.bytes;
  ++parked_count;
  parked[key].push_back(std::move(request));
}

std::vector<Parked> Server::State::unpark(const msg::VersionKey& key) {
  const auto node = parked.extract(key);
  if (node.empty()) return {};
  for (const Parked& request : node.mapped()) parked_bytes -= request.bytes;
  return std::move(node.mapped());
}

void Server::State::on_ready(const msg::VersionKey& key) {
  if (linked) link->announce();
  if (const auto version = engine.find(key)) {
    for (Parked& request : unpark(key)) {
      infer(version, std::move(request));
      --parked_count;
    }
  } else if (parked.contains(key)) {
    // Unloaded again before its requests were run: somebody must load it for them.
    if (const auto standing = store->ask(key); !standing) on_failed(key, standing.error());
  }
}

void Server::State::on_failed(const msg::VersionKey& key, const Error& error) {
  for (const Parked& request : unpark(key)) {
    refuse(request.asker, error);
    --parked_count;
  }
}

void Server::State::cancel(const Asker& asker) {
  engine.cancel(asker);
  for (auto& [key, requests] : parked) {
    std::erase_if(requests, [&](const Parked& request) {
      if (request.asker != asker) return false;
      parked_bytes -= request.bytes;
      --parked_count;
      return true;
    });
  }
}

void Server::State::on_tick(Clock::time_point now) {
  engine.expire(now);
  if (!stuck) look_for_stuck(now);
  for (auto& [key, requests] : parked) {
    std::erase_if(requests, [&](const Parked& request) {
      if (!request.deadline || *request.deadline > now) return false;
      refuse(request.asker,
             {.code = Code::kDeadlineExceeded,
              .message = std::format("Request timeout expired while version {} of model '{}' was being loaded",
                                     key.version, key.model),
              .path = {}});
      parked_bytes -= request.bytes;
      --parked_count;
      return true;
    });
  }
}

void Server::State::look_for_stuck(Clock::time_point now) {
  const auto run = watchdog.overdue(now);
  if (!run) return;
  stuck = true;
  spdlog::critical("model stuck model={} version={} digest={} uploaded={}", log_value(run->key.model), run->key.version,
                   to_hex(run->digest), run->uploaded);
  if (run->uploaded) {
    const auto kept = quarantine(options.store.cache_dir, run->digest,
                                 std::format("as version {} of model '{}' it ran on long after its requests' deadlines",
                                             run->key.version, run->key.model));
    if (!kept) spdlog::error("quarantine not kept reason={}", log_value(kept.error().message));
  }
  options.on_stuck();
}

void Server::State::inspect_loop() {
  std::unique_lock lock(inspect_mutex);
  while (true) {
    inspect_wake.wait(lock, [this] { return stopping || !inspections.empty(); });
    if (stopping) return;
    const Inspection next = std::move(inspections.front());
    inspections.pop_front();
    inspecting = true;
    lock.unlock();
    const auto inspected = [&]() -> Result<Signature> {
      auto path = download_to_cache(*registry, next.inspect.file, options.store.cache_dir);
      if (!path) return std::unexpected(std::move(path).error());
      if (auto free = check_quarantine(options.store.cache_dir, next.inspect.file.digest); !free)
        return std::unexpected(std::move(free).error());
      auto signature = inspect_in_child(options.program, *path, next.inspect.signature, options.inspect,
                                        stop_inspecting.get_token());
      std::error_code ignored;
      if (!signature) std::filesystem::remove(*path, ignored);
      return signature;
    }();
    metrics()
        .inspections.Add({{"result", inspected ? "accepted" : std::string(code_name(inspected.error().code))}})
        .Increment();
    if (inspected) {
      spdlog::info("file accepted digest={} bytes={}", to_hex(next.inspect.file.digest), next.inspect.file.size_bytes);
      answer(next.asker, msg::Inspected{.signature = *inspected});
    } else {
      spdlog::info("file refused digest={} code={} message={}", to_hex(next.inspect.file.digest),
                   code_name(inspected.error().code), log_value(inspected.error().message));
      answer(next.asker, to_message(inspected.error()));
    }
    lock.lock();
    inspecting = false;
  }
}

std::string Server::not_ready() const {
  if (state_->draining) return "draining";
  if (!state_->store->settled()) return "the desired versions are not loaded yet";
  if (state_->link->welcomed() == 0) return "no gateway has welcomed this inferencer";
  return {};
}

void Server::drain(std::chrono::milliseconds deadline) {
  state_->draining = true;
  state_->link->announce();
  const auto until = Clock::now() + deadline;
  const auto busy = [&] {
    const std::lock_guard lock(state_->inspect_mutex);
    return state_->engine.outstanding() > 0 || state_->parked_count > 0 || state_->inspecting ||
           !state_->inspections.empty();
  };
  // What a gateway sent before it read the heartbeat is still on its way: idle must last for a moment.
  constexpr int kQuiet = 5;
  for (int quiet = 0; quiet < kQuiet && Clock::now() < until;) {
    quiet = busy() ? 0 : quiet + 1;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void Server::stop() {
  State& self = *state_;
  {
    const std::lock_guard lock(self.inspect_mutex);
    if (self.stopping) return;
    self.stopping = true;
  }
  self.inspect_wake.notify_one();
  // Nobody waits for these any more.
  self.registry->close();
  self.stop_inspecting.request_stop();
  self.engine.stop();
  self.store->stop();
  self.inspector.join();
  self.bus.stop(std::chrono::seconds(1));
}

}  // namespace slipway::inferencer

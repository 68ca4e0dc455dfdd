#include "services/inferencer/server.h"

#include <spdlog/spdlog.h>

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
#include "lib/base/machine.h"
#include "lib/base/random_id.h"
#include "lib/base/sha256.h"
#include "lib/wire/file_cache.h"
#include "lib/wire/worker_link.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/crash_guard.h"
#include "services/inferencer/metrics.h"
#include "services/inferencer/quarantine_list.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxInspections = 64;  // waiting
constexpr std::size_t kMaxLoadings = 4096;   // the same, for versions to be loaded
// Inspections run two at a time; one that takes long makes room for another, up to this many in all.
constexpr std::size_t kInspectors = 4;
constexpr std::size_t kQuickInspectors = 2;
constexpr auto kQuick = std::chrono::seconds(5);

// A process that ends because of a model says so first: to the registry, and to whoever waits for an answer. The thread
// that crashed waits for a second.
constexpr auto kLastWords = std::chrono::milliseconds(600);
constexpr auto kToldWithin = std::chrono::seconds(2);  // a gateway that has gone does not answer
constexpr auto kFlush = std::chrono::milliseconds(150);

Error lost() {
  return {
      .code = Code::kUnavailable, .message = "the inferencer restarts, since a model ended its process", .path = {}};
}

// A request whose version is being loaded.
struct Parked {
  Asker asker;
  msg::Infer infer;
  std::vector<Frame> payload;
  std::optional<Clock::time_point> deadline;
  std::size_t bytes = 0;
};

// A gateway that waits for a version to be loaded.
struct Loading {
  Asker asker;
  std::optional<Clock::time_point> deadline;
};

struct Inspection {
  Asker asker;
  msg::Inspect inspect;
};

struct RunningInspection {
  Asker asker;
  Clock::time_point since;
};

void note(const StoredFile& file, const Result<Signature>& inspected) {
  metrics()
      .inspections.Add({{"result", inspected ? "accepted" : std::string(code_name(inspected.error().code))}})
      .Increment();
  if (inspected) {
    spdlog::info("file accepted digest={} bytes={}", to_hex(file.digest), file.size_bytes);
  } else {
    spdlog::info("file refused digest={} code={} message={}", to_hex(file.digest), code_name(inspected.error().code),
                 log_value(inspected.error().message));
  }
}

// The thread goes on after an exception.
template <class Work>
void guarded(Work work) {
  const auto done = caught("the end of an inspection", Code::kInternal, [&]() -> Result<void> {
    work();
    return {};
  });
  if (!done) spdlog::error("inspector failed message={}", log_value(done.error().message));
}

}  // namespace

struct Server::State {
  explicit State(Options given) : options(watched(std::move(given), watchdog)), engine(options.engine) {}

  static Options watched(Options given, Watchdog& watchdog) {
    given.engine.watchdog = &watchdog;
    given.engine.max_requests = given.max_requests;
    given.engine.marks = given.store.cache_dir;
    given.store.watchdog = &watchdog;
    given.inspect.max_batch_rows = given.store.max_batch_rows;
    return given;
  }

  Watchdog watchdog;
  const Options options;
  const FileCache cache{options.store.cache_dir, options.store.cache_bytes};
  std::unique_ptr<CrashGuard> crash_guard;
  Bus bus{{.names_over_ipv6 = options.names_over_ipv6}};
  Engine engine;
  std::unique_ptr<Caller> registry;
  std::unique_ptr<QuarantineList> quarantines;
  std::unique_ptr<VersionStore> store;
  std::unique_ptr<WorkerLink> link;
  std::atomic<bool> linked{false};  // `link` may be used
  std::atomic<bool> draining{false};
  std::atomic<std::size_t> parked_count{0};
  std::atomic<std::size_t> max_parked_bytes{options.engine.max_queued_bytes};
  std::atomic<std::uint64_t> inspect_bytes{options.inspect.memory_bytes};

  // Bus thread only.
  std::map<msg::VersionKey, std::vector<Parked>> parked;
  std::size_t parked_bytes = 0;
  std::map<msg::VersionKey, std::vector<Loading>> loadings;
  std::size_t loading_count = 0;
  struct Ending {
    msg::VersionKey key;
    Error guilty;                       // what those hear whose request may have been the cause
    Clock::time_point at;               // at the latest
    bool told = false;                  // the registry, and so the others
    bool answered = false;              // the guilty
    Clock::time_point not_before = {};  // what they were answered is on its way
    bool done = false;
  };
  std::optional<Ending> ending;

  std::mutex inspect_mutex;
  std::condition_variable inspect_wake;
  std::deque<Inspection> inspections;
  std::map<std::size_t, RunningInspection> inspecting;  // by inspector
  bool stopping = false;
  std::stop_source stop_inspecting;
  std::vector<std::thread> inspectors;

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
            .draining = leaving && !ending};  // a crash is a loss to its gateways
  }

  void on_request(Incoming incoming);
  void infer(const std::shared_ptr<const LoadedVersion>& version, Parked request);
  void park(const msg::VersionKey& key, Parked request);
  std::vector<Parked> unpark(const msg::VersionKey& key);
  void load(const msg::VersionKey& key, Loading loading);
  void answer_loadings(const msg::VersionKey& key, const msg::Body& body);
  void on_ready(const msg::VersionKey& key);
  void on_failed(const msg::VersionKey& key, const Error& error);
  void cancel(const Asker& asker);
  void on_tick(Clock::time_point now);
  void look_for_end(Clock::time_point now);
  void answer_guilty(const msg::VersionKey& key, const Error& error);
  void begin_end(const msg::VersionKey& key, const Digest& digest, bool uploaded, const std::string& reason,
                 Clock::time_point now);
  std::optional<Clock::time_point> next_inspection_at(Clock::time_point now) const;
  Result<Signature> inspect(const msg::Inspect& question);
  void inspect_loop(std::size_t inspector);
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(Options options) {
  auto state = std::make_unique<State>(std::move(options));
  State& self = *state;
  metrics();  // all there from the start, at 0
  const auto& folder = self.options.store.cache_dir;
  std::error_code exists;
  std::filesystem::create_directories(folder, exists);
  auto guard = CrashGuard::start({.folder = folder, .wait = self.options.crash_wait});
  if (!guard) return std::unexpected(std::move(guard).error());
  self.crash_guard = std::move(*guard);
  self.registry = std::make_unique<Caller>(self.bus, self.options.registry, self.options.cluster_secret);
  self.quarantines = std::make_unique<QuarantineList>(*self.registry, folder);
  self.store = std::make_unique<VersionStore>(
      *self.registry, self.engine, *self.quarantines, self.options.store,
      VersionStore::Events{
          .on_ready = [&self](const msg::VersionKey& key) { self.bus.post([&self, key] { self.on_ready(key); }); },
          .on_failed =
              [&self](const msg::VersionKey& key, Error error) {
                self.bus.post([&self, key, error = std::move(error)] { self.on_failed(key, error); });
              }});
  std::unique_ptr<Server> server(new Server(std::move(state)));
  for (std::size_t i = 0; i < kInspectors; ++i) self.inspectors.emplace_back([&self, i] { self.inspect_loop(i); });
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
      [&self](Incoming incoming) { self.on_request(std::move(incoming)); }, self.options.cluster_secret);
  self.linked = true;
  return server;
}

void Server::State::on_request(Incoming incoming) {
  auto& envelope = incoming.message.envelope;
  Asker asker{.socket = incoming.socket, .peer = incoming.peer, .correlation = envelope.correlation};
  if (ending && !std::holds_alternative<msg::Cancel>(envelope.body)) return refuse(asker, lost());
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
    if (!standing) {
      refuse(request.asker, standing.error());
    } else if (*standing && version) {
      infer(version, std::move(request));
    } else {
      park(key, std::move(request));
      // It may have gone between the two questions.
      if (*standing) on_ready(key);
    }
  } else if (const auto* cancelled = std::get_if<msg::Cancel>(&envelope.body)) {
    asker.correlation = cancelled->correlation;
    cancel(asker);
  } else if (const auto* wanted = std::get_if<msg::LoadVersion>(&envelope.body)) {
    Loading loading{.asker = std::move(asker), .deadline = {}};
    if (envelope.deadline_ms > 0) loading.deadline = Clock::now() + std::chrono::milliseconds(envelope.deadline_ms);
    load(wanted->version, std::move(loading));
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
  engine.submit(
      version->key, std::move(*inputs), std::move(request.asker), request.deadline,
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
      },
      request.infer.alone);
}

void Server::State::park(const msg::VersionKey& key, Parked request) {
  for (const Frame& frame : request.payload) request.bytes += frame.size();
  // One version that is long in loading must not keep the places from the others.
  const auto same = parked.find(key);
  const bool has_share = same != parked.end() && 2 * same->second.size() >= options.max_requests;
  if (has_share || parked_count >= options.max_requests || parked_bytes + request.bytes > max_parked_bytes) {
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

void Server::State::load(const msg::VersionKey& key, Loading loading) {
  const auto standing = store->ask_anew(key);
  if (!standing) return answer(loading.asker, to_message(standing.error()));
  if (loading_count >= kMaxLoadings) {
    return answer(loading.asker,
                  to_message({.code = Code::kOverloaded,
                              .message = std::format("{} questions wait for versions to be loaded", loading_count),
                              .path = {}}));
  }
  loadings[key].push_back(std::move(loading));
  ++loading_count;
  // It may be there already, or have gone between the two questions.
  if (*standing) on_ready(key);
}

void Server::State::answer_loadings(const msg::VersionKey& key, const msg::Body& body) {
  const auto node = loadings.extract(key);
  if (node.empty()) return;
  loading_count -= node.mapped().size();
  for (const Loading& loading : node.mapped()) answer(loading.asker, body);
}

void Server::State::on_ready(const msg::VersionKey& key) {
  if (linked) link->announce();
  if (const auto version = engine.find(key)) {
    answer_loadings(key, msg::Ok{});
    for (Parked& request : unpark(key)) {
      infer(version, std::move(request));
      --parked_count;
    }
  } else if (parked.contains(key) || loadings.contains(key)) {
    // Unloaded again before its requests were run: somebody must load it for them.
    if (const auto standing = store->ask(key); !standing) on_failed(key, standing.error());
  }
}

void Server::State::on_failed(const msg::VersionKey& key, const Error& error) {
  answer_loadings(key, to_message(error));
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
  look_for_end(now);
  for (auto& [key, waiting] : loadings) {
    // Whoever asked has given up by then.
    loading_count -=
        std::erase_if(waiting, [&](const Loading& loading) { return loading.deadline && *loading.deadline <= now; });
  }
  std::erase_if(loadings, [](const auto& item) { return item.second.empty(); });
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

void Server::State::look_for_end(Clock::time_point now) {
  if (ending) {
    // Not before the others know: who asks again at once must not end a second process.
    if (!ending->answered && (ending->told || now + kFlush >= ending->at)) {
      answer_guilty(ending->key, ending->guilty);
      ending->answered = true;
      ending->not_before = now + kFlush;
    }
    if (ending->done || !ending->answered || now < ending->not_before) return;
    ending->done = true;
    options.end_process();
    return;
  }
  if (const auto crash = CrashGuard::crashed()) {
    spdlog::critical("model crashed model={} version={} digest={} uploaded={} signal={}", log_value(crash->key.model),
                     crash->key.version, to_hex(crash->digest), crash->uploaded, crash->signal);
    begin_end(crash->key, crash->digest, crash->uploaded,
              std::format("the process that ran it crashed (signal {})", crash->signal), now);
  } else if (const auto run = watchdog.overdue(now)) {
    spdlog::critical("model stuck model={} version={} digest={} uploaded={}", log_value(run->key.model),
                     run->key.version, to_hex(run->digest), run->uploaded);
    begin_end(run->key, run->digest, run->uploaded, "it ran on long after its requests' deadlines", now);
  }
}

void Server::State::answer_guilty(const msg::VersionKey& key, const Error& error) {
  engine.abandon(key, error, lost());
  for (const auto& [version, requests] : parked) {
    for (const Parked& request : requests) refuse(request.asker, error);
  }
  parked.clear();
  parked_bytes = 0;
  parked_count = 0;
}

// Whoever's request may have been the cause is told so, and is not tried elsewhere; the others are, at once.
void Server::State::begin_end(const msg::VersionKey& key, const Digest& digest, bool uploaded,
                              const std::string& reason, Clock::time_point now) {
  ending = Ending{
      .key = key,
      .guilty = {.code = Code::kInternal,
                 .message = std::format("version {} of model '{}' ended the process that ran it: {}{}", key.version,
                                        key.model, reason, uploaded ? "; the version is quarantined" : ""),
                 .path = {}},
      .at = now + kLastWords,
      .told = !uploaded};
  draining = true;
  if (linked) link->announce();
  if (uploaded) {
    quarantines->report({.digest = digest, .model = key.model, .version = key.version, .reason = reason, .at_ms = 0},
                        kLastWords, [this] { ending->told = true; });
  }
  engine.abandon(key, std::nullopt, lost());
  for (auto& [version, requests] : parked) {
    if (version == key) continue;
    for (const Parked& request : requests) refuse(request.asker, lost());
    requests.clear();
  }
  for (const auto& [version, waiting] : loadings) {
    for (const Loading& loading : waiting) answer(loading.asker, to_message(lost()));
  }
  loadings.clear();
  loading_count = 0;
  const std::lock_guard lock(inspect_mutex);
  for (const Inspection& inspection : inspections) answer(inspection.asker, to_message(lost()));
  for (const auto& [inspector, inspection] : inspecting) answer(inspection.asker, to_message(lost()));
  inspections.clear();
  inspecting.clear();
}

// Under the lock. When the next file may be looked at; nullopt: not before another one is done.
std::optional<Clock::time_point> Server::State::next_inspection_at(Clock::time_point now) const {
  std::vector<Clock::time_point> slow_at;  // of those that are quick so far
  for (const auto& [inspector, running] : inspecting) {
    if (running.since + kQuick > now) slow_at.push_back(running.since + kQuick);
  }
  if (slow_at.size() < kQuickInspectors) return now;
  return *std::ranges::min_element(slow_at);
}

Result<Signature> Server::State::inspect(const msg::Inspect& question) {
  const auto refusal = [&]() -> Result<void> {
    const auto reason = quarantines->reason(question.file.digest);
    if (!reason) return {};
    return fail(Code::kInvalidArgument, std::format("the TorchScript file is quarantined: {}", *reason));
  };
  if (auto free = refusal(); !free) return std::unexpected(std::move(free).error());
  auto file = cache.get(*registry, question.file);
  if (!file) return std::unexpected(std::move(file).error());
  const auto& path = file->path();
  // What the scan refuses needs no process that loads torch.
  auto signature = scan_file(path).and_then([&] {
    InspectLimits limits = options.inspect;
    limits.memory_bytes = inspect_bytes;
    return inspect_in_child(options.program, path, question.signature, limits, stop_inspecting.get_token());
  });
  std::error_code ignored;
  if (!signature) std::filesystem::remove(path, ignored);
  return signature;
}

void Server::State::inspect_loop(std::size_t inspector) {
  std::unique_lock lock(inspect_mutex);
  while (!stopping) {
    const auto now = Clock::now();
    const auto at = inspections.empty() ? std::nullopt : next_inspection_at(now);
    if (!at) {
      inspect_wake.wait(lock);
      continue;
    }
    if (*at > now) {
      inspect_wake.wait_until(lock, *at);
      continue;
    }
    const Inspection next = std::move(inspections.front());
    inspections.pop_front();
    inspecting[inspector] = {.asker = next.asker, .since = now};
    lock.unlock();
    const auto inspected = caught("the inspection failed", Code::kInternal, [&] { return inspect(next.inspect); });
    guarded([&] { note(next.inspect.file, inspected); });
    lock.lock();
    // Not when it has been answered already, since the process ends.
    if (inspecting.erase(inspector) > 0) {
      guarded([&] {
        answer(next.asker, inspected ? msg::Body(msg::Inspected{.signature = *inspected})
                                     : msg::Body(to_message(inspected.error())));
      });
    }
    inspect_wake.notify_all();
  }
}

std::string Server::not_ready() const {
  if (state_->draining) return "draining";
  if (!state_->store->settled()) return "the desired versions are not loaded yet";
  if (state_->link->welcomed() == 0) return "no gateway has welcomed this inferencer";
  return {};
}

void Server::set_memory(const MemoryPlan& plan) {
  state_->store->set_memory(plan.model_bytes, plan.run_bytes);
  state_->engine.set_max_queued_bytes(plan.queued_bytes);
  state_->max_parked_bytes = plan.queued_bytes;
  state_->inspect_bytes = plan.inspect_bytes;
}

void Server::drain(std::chrono::milliseconds deadline) {
  state_->draining = true;
  state_->link->announce();
  const auto until = Clock::now() + deadline;
  const auto busy = [&] {
    const std::lock_guard lock(state_->inspect_mutex);
    return state_->engine.outstanding() > 0 || state_->parked_count > 0 || !state_->inspecting.empty() ||
           !state_->inspections.empty();
  };
  // What a gateway sent before it knew may still be on its way.
  const auto told_by = std::min(until, Clock::now() + kToldWithin);
  while (!state_->link->let_go() && Clock::now() < told_by) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  while (busy() && Clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

void Server::stop() {
  State& self = *state_;
  {
    const std::lock_guard lock(self.inspect_mutex);
    if (self.stopping) return;
    self.stopping = true;
  }
  self.inspect_wake.notify_all();
  // Nobody waits for these any more.
  self.registry->close();
  self.stop_inspecting.request_stop();
  self.engine.stop();
  self.store->stop();
  for (std::thread& inspector : self.inspectors) inspector.join();
  self.bus.stop(std::chrono::seconds(1));
}

}  // namespace slipway::inferencer

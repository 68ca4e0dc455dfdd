#include "services/inferencer/engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <format>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "lib/base/log.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/crash_guard.h"
#include "services/inferencer/metrics.h"
#include "services/inferencer/quarantine.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::microseconds in_us(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time);
}

struct Lane;

// A request as its asker sees it; with more rows than one batch holds it has several parts.
struct Request {
  Asker asker;
  Engine::Done done;
  std::shared_ptr<const LoadedVersion> version;  // of one with several parts, for joining them
  std::vector<std::optional<Answer>> parts;
  std::size_t missing = 1;
  std::uint64_t first_id = 0;  // its parts have consecutive ids
  std::size_t waiting = 0;     // parts in a batcher
  Lane* lane = nullptr;        // valid until it is answered
  bool answered = false;
};

// What one entry of a batcher stands for.
struct Piece {
  std::shared_ptr<Request> request;
  std::size_t index = 0;
  CheckedInputs inputs;
  std::size_t bytes = 0;
  Clock::time_point since;
  std::optional<Clock::time_point> deadline;
};

// One version's queue.
struct Lane {
  std::shared_ptr<const LoadedVersion> version;
  Batcher batcher;
  bool batchable = false;
  bool free_dimensions = false;
  bool proven = false;                     // a batch of it has come to its end
  std::size_t requests = 0;                // not answered yet
  std::size_t bytes = 0;                   // of inputs waiting
  std::vector<Clock::time_point> begun{};  // of each batch that runs
  Clock::duration last{};                  // what the latest batch took
  Clock::duration spent{};                 // computing time in all, and what was forgone by being idle
  std::optional<Error> refused{};          // why it takes no requests any more
  std::optional<std::size_t> place{};      // among the lanes that have something waiting
};

// An answer ready to be given, outside the lock; nullopt: the request's parts are to be joined first.
struct Ready {
  std::shared_ptr<Request> request;
  std::optional<Result<Answer>> answer;
};

// One answer from the parts of a large request, row after row.
Result<Answer> join(const std::vector<std::optional<Answer>>& parts, const ModelLimits& limits) {
  Answer whole;
  whole.outputs = parts[0]->outputs;
  std::int64_t answer_bytes = 0;
  for (std::size_t o = 0; o < whole.outputs.size(); ++o) {
    std::size_t size = 0;
    std::int64_t rows = 0;
    for (const auto& part : parts) {
      const TensorSpec& spec = part->outputs[o];
      if (!std::ranges::equal(spec.shape.begin() + 1, spec.shape.end(), whole.outputs[o].shape.begin() + 1,
                              whole.outputs[o].shape.end())) {
        return fail(
            Code::kInternal,
            std::format("output '{}' has another shape from batch to batch, so that {} batches cannot be joined",
                        spec.name, parts.size()));
      }
      rows += spec.shape[0];
      size += part->payload[o].size();
    }
    const auto bytes = static_cast<std::int64_t>(size);
    answer_bytes += bytes;
    if (auto good = check_answer_bytes(whole.outputs[o].name, bytes, answer_bytes, limits); !good)
      return std::unexpected(std::move(good).error());
    std::vector<std::byte> joined;
    joined.reserve(size);
    for (const auto& part : parts) {
      const auto more = part->payload[o].bytes();
      joined.insert(joined.end(), more.begin(), more.end());
    }
    whole.outputs[o].shape[0] = rows;
    whole.payload.push_back(Frame::of(std::move(joined)));
  }
  for (const auto& part : parts) {
    whole.batch_rows = std::max(whole.batch_rows, part->batch_rows);
    whole.queued = std::max(whole.queued, part->queued);
    whole.computed += part->computed;
  }
  return whole;
}

void give(std::vector<Ready>& all) {
  for (Ready& ready : all) {
    auto answer =
        ready.answer ? std::move(*ready.answer) : caught("the answer's parts cannot be joined", Code::kInternal, [&] {
          return join(ready.request->parts, ready.request->version->model->limits());
        });
    if (answer) {
      metrics().requests_ok.Increment();
    } else {
      metrics().requests.Add({{"code", std::string(code_name(answer.error().code))}}).Increment();
    }
    const auto given = caught("an answer cannot be given", Code::kInternal, [&]() -> Result<void> {
      ready.request->done(std::move(answer));
      return {};
    });
    if (!given) spdlog::error("answer lost message={}", log_value(given.error().message));
  }
  all.clear();
}

// Rows [from, from + rows) of a request.
CheckedInputs slice(const CheckedInputs& whole, std::int64_t from, std::int64_t rows) {
  CheckedInputs part{.specs = whole.specs, .frames = {}, .rows = rows};
  for (std::size_t i = 0; i < whole.specs.size(); ++i) {
    const std::size_t row_bytes = whole.frames[i].size() / static_cast<std::size_t>(whole.rows);
    part.specs[i].shape[0] = rows;
    part.frames.push_back(
        whole.frames[i].part(row_bytes * static_cast<std::size_t>(from), row_bytes * static_cast<std::size_t>(rows)));
  }
  return part;
}

struct AskerHash {
  std::size_t operator()(const Asker& asker) const {
    return std::hash<std::string>()(asker.peer) ^ (std::hash<std::uint64_t>()(asker.correlation) * 31) ^
           static_cast<std::size_t>(asker.socket);
  }
};

std::unexpected<Error> fail_late() {
  return fail(Code::kDeadlineExceeded, "Request timeout expired while it waited for a batch");
}

}  // namespace

struct Engine::State {
  explicit State(const Options& given) : options(given), max_queued_bytes(given.max_queued_bytes) {}

  const Options options;
  mutable std::mutex mutex;
  std::condition_variable work;
  std::map<msg::VersionKey, Lane> lanes;
  std::vector<Lane*> waiting;                                               // lanes that have something waiting
  std::unordered_map<std::uint64_t, Piece> pieces;                          // waiting, by request id
  std::unordered_map<Asker, std::shared_ptr<Request>, AskerHash> by_asker;  // not answered, of those that can cancel
  std::uint64_t next_id = 1;
  std::size_t requests = 0;  // not answered yet
  std::size_t queued_bytes = 0;
  std::size_t max_queued_bytes;
  std::size_t running = 0;  // pieces
  int batches = 0;          // that run
  Clock::duration spent{};  // of the lane that was chosen last, which has spent least
  std::optional<TimePoint> ended;
  bool stopping = false;
  std::vector<std::thread> threads;

  void set_waiting(Lane& lane) {
    if (lane.batcher.empty() == !lane.place) return;
    if (!lane.place) {
      lane.place = waiting.size();
      waiting.push_back(&lane);
      // Idle time is no credit: it would be spent at the expense of others.
      lane.spent = std::max(lane.spent, spent);
      return;
    }
    waiting.back()->place = lane.place;
    waiting[*lane.place] = waiting.back();
    waiting.pop_back();
    lane.place.reset();
  }

  // Takes a piece whose id has left its batcher.
  Piece take(RequestId id) {
    auto node = pieces.extract(static_cast<std::uint64_t>(id));
    Piece& piece = node.mapped();
    queued_bytes -= piece.bytes;
    piece.request->lane->bytes -= piece.bytes;
    --piece.request->waiting;
    metrics().queued_rows.Decrement(static_cast<double>(piece.inputs.rows));
    return std::move(piece);
  }

  // Ends a request: its other parts are not worth running any more.
  void end(const std::shared_ptr<Request>& request) {
    request->answered = true;
    for (std::size_t i = 0; request->waiting > 0 && i < request->parts.size(); ++i) {
      const RequestId id{request->first_id + i};
      if (!pieces.contains(static_cast<std::uint64_t>(id))) continue;
      request->lane->batcher.cancel(id);
      static_cast<void>(take(id));
    }
    set_waiting(*request->lane);
    --request->lane->requests;
    --requests;
    const auto found = by_asker.find(request->asker);
    if (found != by_asker.end() && found->second == request) by_asker.erase(found);
  }

  // nullopt: from its parts.
  void finish(const std::shared_ptr<Request>& request, std::optional<Result<Answer>> answer,
              std::vector<Ready>& ready) {
    if (request->answered) return;
    end(request);
    ready.push_back({request, std::move(answer)});
  }

  void drop_late(Lane& lane, TimePoint now, std::vector<Ready>& ready) {
    for (const RequestId id : lane.batcher.take_late(now)) {
      if (!pieces.contains(static_cast<std::uint64_t>(id))) continue;  // a part of a request that was just ended
      const Piece piece = take(id);
      finish(piece.request, fail_late(), ready);
    }
    set_waiting(lane);
  }

  // Backwards, since lanes leave the list when their last request was late.
  void drop_late(TimePoint now, std::vector<Ready>& ready) {
    for (std::size_t i = waiting.size(); i-- > 0;) drop_late(*waiting[i], now, ready);
  }

  // Whether the lane would hold the last free instance for long, while another version may want one.
  bool must_leave_one(const Lane& lane, TimePoint now) const {
    if (lanes.size() < 2 || lane.begun.empty() || batches + 1 < static_cast<int>(threads_wanted())) return false;
    return lane.last >= options.slow_batch ||
           std::ranges::any_of(lane.begun, [&](TimePoint begun) { return now - begun >= options.slow_batch; });
  }
  std::size_t threads_wanted() const { return static_cast<std::size_t>(std::max(1, options.instances)); }

  // The next batch: of the lane with the fewest batches running, then with the least computing time spent, then with
  // the oldest request. nullopt: none now; `next` is then when there will be one if nothing else happens.
  struct Chosen {
    Lane* lane = nullptr;  // stays while its batch runs
    Batcher::Batch batch;
    std::vector<Piece> pieces;
    TimePoint begun;
    bool first = false;  // of the version's batches
  };
  std::vector<Chosen*> active;  // batches that run
  std::optional<Chosen> choose(TimePoint now, std::vector<Ready>& ready, std::optional<TimePoint>& next) {
    drop_late(now, ready);
    const auto rank = [](const Lane& lane) { return std::tuple(lane.begun.size(), lane.spent, lane.batcher.oldest()); };
    Lane* best = nullptr;
    for (Lane* lane : waiting) {
      if (must_leave_one(*lane, now)) continue;
      const auto due = lane->batcher.due_at();
      if (*due > now) {
        if (!next || *due < *next) next = due;
      } else if (best == nullptr || rank(*lane) < rank(*best)) {
        best = lane;
      }
    }
    if (best == nullptr) return std::nullopt;
    auto batch = best->batcher.take(now);
    if (!batch) return std::nullopt;
    Chosen chosen{.lane = best,
                  .batch = std::move(*batch),
                  .pieces = {},
                  .begun = now,
                  .first = !best->proven && best->begun.empty()};
    chosen.pieces.reserve(chosen.batch.ids.size());
    for (const RequestId id : chosen.batch.ids) chosen.pieces.push_back(take(id));
    spent = std::max(spent, best->spent);
    best->begun.push_back(now);
    ++batches;
    running += chosen.pieces.size();
    set_waiting(*best);
    return chosen;
  }

  void finish(Chosen& chosen, std::vector<Result<Answer>>& answers, std::vector<Ready>& ready) {
    const auto now = Clock::now();
    Lane& lane = *chosen.lane;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const auto& request = chosen.pieces[i].request;
      if (request->answered) continue;
      if (!answers[i] || request->parts.size() == 1) {
        finish(request, std::move(answers[i]), ready);
        continue;
      }
      request->parts[chosen.pieces[i].index] = std::move(*answers[i]);
      if (--request->missing == 0) finish(request, std::nullopt, ready);
    }
    std::erase(active, &chosen);
    running -= chosen.pieces.size();
    --batches;
    lane.begun.erase(std::ranges::find(lane.begun, chosen.begun));
    lane.proven = true;
    lane.last = now - chosen.begun;
    lane.spent += lane.last;
    ended = now;
  }

  // What keeps the request from being taken; nullopt: nothing.
  std::optional<Error> refusal(const msg::VersionKey& key, const CheckedInputs& inputs, std::size_t bytes,
                               const std::optional<TimePoint>& deadline, TimePoint now);

  void run_thread();
  void run(Chosen& chosen, std::vector<Result<Answer>>& answers) const;
};

Engine::Engine(const Options& options) : state_(std::make_unique<State>(options)) {
  for (int i = 0; i < std::max(1, options.instances); ++i)
    state_->threads.emplace_back([this] { state_->run_thread(); });
}

Engine::~Engine() { stop(); }

void Engine::State::run(Chosen& chosen, std::vector<Result<Answer>>& answers) const {
  const LoadedVersion& version = *chosen.lane->version;
  const Signature& signature = version.signature;
  const auto begun = Clock::now();
  std::vector<Part> parts;
  parts.reserve(chosen.pieces.size());
  for (const Piece& piece : chosen.pieces) {
    parts.push_back({.specs = piece.inputs.specs, .inputs = piece.inputs.frames, .rows = piece.inputs.rows});
    metrics().queue_wait.Observe(std::chrono::duration<double>(begun - piece.since).count());
  }
  auto latest = begun;
  for (const Piece& piece : chosen.pieces) latest = std::max(latest, piece.deadline.value_or(begun));
  const auto guard = Watchdog::watch(options.watchdog, {.key = version.key,
                                                        .digest = version.digest,
                                                        .uploaded = version.uploaded,
                                                        .until = latest + options.stuck_after});
  const CrashGuard::Scope scope(version.key, version.digest, version.uploaded);
  // The kernel's end of a process that takes too much memory leaves no other trace.
  std::optional<Trying> trying;
  if (chosen.first && version.uploaded && !options.marks.empty())
    trying.emplace(options.marks, version.key, version.digest, Trying::Stage::kRun);
  metrics().released(chosen.batch.reason).Increment();
  metrics().batch_rows.Observe(static_cast<double>(chosen.batch.rows));

  const auto answer_of = [&](std::size_t i, Outputs& outputs, Clock::time_point start, std::int64_t rows) {
    return Answer{.outputs = std::move(outputs.specs),
                  .payload = std::move(outputs.frames),
                  .batch_rows = rows,
                  .queued = in_us(start - chosen.pieces[i].since),
                  .computed = in_us(Clock::now() - start)};
  };
  auto ran = version.model->run(signature, parts);
  if (ran) {
    for (std::size_t i = 0; i < parts.size(); ++i) answers.push_back(answer_of(i, (*ran)[i], begun, chosen.batch.rows));
  } else if (parts.size() == 1) {
    answers.push_back(std::unexpected(std::move(ran).error()));
  } else {
    // One bad request must not fail the others of its batch.
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto start = Clock::now();
      auto alone = version.model->run(signature, std::span(parts).subspan(i, 1));
      if (alone) {
        answers.push_back(answer_of(i, (*alone)[0], start, parts[i].rows));
      } else {
        answers.push_back(std::unexpected(std::move(alone).error()));
      }
    }
  }
  metrics().compute.Observe(std::chrono::duration<double>(Clock::now() - begun).count());
  metrics().rows.Increment(static_cast<double>(chosen.batch.rows));
}

void Engine::State::run_thread() {
  std::vector<Ready> ready;
  std::unique_lock lock(mutex);
  while (!stopping) {
    std::optional<TimePoint> next;
    auto chosen = choose(Clock::now(), ready, next);
    if (chosen) {
      std::vector<Result<Answer>> answers;
      answers.reserve(chosen->pieces.size());
      active.push_back(&*chosen);
      lock.unlock();
      give(ready);
      const auto ran = caught("the batch failed", Code::kInternal, [&]() -> Result<void> {
        run(*chosen, answers);
        return {};
      });
      if (!ran) spdlog::error("batch failed message={}", log_value(ran.error().message));
      while (answers.size() < chosen->pieces.size()) answers.push_back(std::unexpected(ran.error()));
      lock.lock();
      finish(*chosen, answers, ready);
      lock.unlock();
      chosen.reset();  // inputs are freed without the lock
      give(ready);
      lock.lock();
      continue;
    }
    if (!ready.empty()) {
      lock.unlock();
      give(ready);
      lock.lock();
      continue;
    }
    if (next)
      work.wait_until(lock, *next);
    else
      work.wait(lock);
  }
}

void Engine::add(std::shared_ptr<const LoadedVersion> version) {
  BatchLimits limits = state_->options.limits;
  const bool batchable = is_batchable(version->signature);
  if (!batchable) limits.max_rows = 1;
  const std::lock_guard lock(state_->mutex);
  const auto key = version->key;
  if (const auto found = state_->lanes.find(key); found != state_->lanes.end()) {
    found->second.refused.reset();
    return;
  }
  const bool free_dimensions = has_free_dimensions(version->signature);
  state_->lanes.try_emplace(key, Lane{.version = std::move(version),
                                      .batcher = Batcher(limits),
                                      .batchable = batchable,
                                      .free_dimensions = free_dimensions});
}

bool Engine::remove_if_idle(const msg::VersionKey& key, std::shared_ptr<const LoadedVersion>* gone) {
  std::shared_ptr<const LoadedVersion> here;  // freed after the lock
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->lanes.find(key);
  if (found == state_->lanes.end()) return true;
  Lane& lane = found->second;
  if (!lane.begun.empty() || !lane.batcher.empty()) return false;
  (gone == nullptr ? here : *gone) = std::move(lane.version);
  state_->lanes.erase(found);
  return true;
}

std::shared_ptr<const LoadedVersion> Engine::find(const msg::VersionKey& key) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->lanes.find(key);
  return found == state_->lanes.end() ? nullptr : found->second.version;
}

std::optional<Error> Engine::State::refusal(const msg::VersionKey& key, const CheckedInputs& inputs, std::size_t bytes,
                                            const std::optional<TimePoint>& deadline, TimePoint now) {
  const auto error = [](Code code, std::string message) {
    return Error{.code = code, .message = std::move(message), .path = {}};
  };
  const auto full = [&](std::string message) {
    return error(Code::kOverloaded, "Exceeds maximum queue size: " + std::move(message));
  };
  if (stopping) return error(Code::kUnavailable, "the inferencer is stopping");
  const auto found = lanes.find(key);
  if (found == lanes.end())
    return error(Code::kNotFound, std::format("version {} of model '{}' is not loaded here", key.version, key.model));
  if (deadline && *deadline <= now) return fail_late().error();
  const std::int64_t most_rows = options.limits.max_queued_rows;
  if (inputs.rows > most_rows) {
    return error(Code::kTooLarge, std::format("inference request batch-size must be <= {} for '{}', got {}", most_rows,
                                              key.model, inputs.rows));
  }
  const Lane& lane = found->second;
  if (lane.refused) return lane.refused;
  if (queued_bytes + bytes > max_queued_bytes) {
    return full(std::format("{} bytes wait, at most {} may", queued_bytes, max_queued_bytes));
  }
  if (lane.batcher.queued_rows() + inputs.rows > most_rows) {
    return full(
        std::format("{} rows wait for model '{}', at most {} may", lane.batcher.queued_rows(), key.model, most_rows));
  }
  if (lanes.size() < 2) return std::nullopt;
  // Its first request is always taken: the others cannot have left it none.
  if (lane.requests > 0 && lane.requests + requests >= options.max_requests) {
    return full(std::format("{} requests are here for version {} of model '{}' and {} for others, of at most {}",
                            lane.requests, key.version, key.model, requests - lane.requests, options.max_requests));
  }
  if (lane.bytes > 0 && lane.bytes + bytes + queued_bytes > max_queued_bytes) {
    return full(std::format("{} bytes wait for version {} of model '{}' and {} for others, of at most {}", lane.bytes,
                            key.version, key.model, queued_bytes - lane.bytes, max_queued_bytes));
  }
  return std::nullopt;
}

void Engine::submit(const msg::VersionKey& key, CheckedInputs inputs, Asker asker, std::optional<TimePoint> deadline,
                    Done done, bool alone) {
  auto request = std::make_shared<Request>();
  request->asker = std::move(asker);
  request->done = std::move(done);
  std::vector<Ready> ready;
  std::size_t bytes = 0;
  for (const Frame& frame : inputs.frames) bytes += frame.size();
  std::size_t count = 0;
  {
    const std::lock_guard lock(state_->mutex);
    const auto now = Clock::now();
    if (auto error = state_->refusal(key, inputs, bytes, deadline, now)) {
      ready.push_back({request, std::unexpected(std::move(*error))});
    } else {
      Lane& lane = state_->lanes.at(key);
      Batcher::Group group;
      if (lane.free_dimensions) {
        for (const TensorSpec& spec : inputs.specs) {
          if (!spec.shape.empty()) group.insert(group.end(), spec.shape.begin() + 1, spec.shape.end());
        }
      }
      const std::int64_t rows = inputs.rows;
      const std::int64_t most = lane.batchable ? state_->options.limits.max_rows : 1;
      count = static_cast<std::size_t>((rows + most - 1) / most);
      request->parts.resize(count);
      request->missing = count;
      request->first_id = state_->next_id;
      request->lane = &lane;
      if (count > 1) request->version = lane.version;
      ++lane.requests;
      ++state_->requests;
      if (request->asker.correlation != 0) state_->by_asker.insert_or_assign(request->asker, request);
      for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t from = static_cast<std::int64_t>(i) * most;
        const std::int64_t part_rows = std::min(most, rows - from);
        const RequestId id{state_->next_id++};
        // A group that nobody else can have: one dimension more than the others, and that one its own.
        auto part_group = group;
        if (alone) part_group.push_back(static_cast<std::int64_t>(id));
        if (auto queued = lane.batcher.add(id, part_rows, part_group, now, deadline); !queued) {
          state_->finish(request, std::unexpected(std::move(queued).error()), ready);
          break;
        }
        Piece piece{.request = request,
                    .index = i,
                    .inputs = count == 1 ? std::move(inputs) : slice(inputs, from, part_rows),
                    .bytes = 0,
                    .since = now,
                    .deadline = deadline};
        for (const Frame& frame : piece.inputs.frames) piece.bytes += frame.size();
        state_->queued_bytes += piece.bytes;
        lane.bytes += piece.bytes;
        ++request->waiting;
        metrics().queued_rows.Increment(static_cast<double>(part_rows));
        state_->pieces.emplace(static_cast<std::uint64_t>(id), std::move(piece));
      }
      state_->set_waiting(lane);
    }
  }
  if (count > 1)
    state_->work.notify_all();
  else
    state_->work.notify_one();
  give(ready);
}

void Engine::fail_waiting(const msg::VersionKey& key, const Error& error) {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->lanes.find(key);
    if (found == state_->lanes.end()) return;
    Lane& lane = found->second;
    lane.refused = error;
    std::vector<std::shared_ptr<Request>> waiting;  // for each part that waits
    for (const auto& [id, piece] : state_->pieces) {
      if (piece.request->lane == &lane) waiting.push_back(piece.request);
    }
    for (const auto& request : waiting) state_->finish(request, std::unexpected(error), ready);
  }
  give(ready);
}

void Engine::cancel(const Asker& asker) {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->by_asker.find(asker);
  if (found == state_->by_asker.end() || found->second->waiting == 0) return;
  const auto request = found->second;
  state_->end(request);
  metrics().requests.Add({{"code", "cancelled"}}).Increment();
}

void Engine::expire(TimePoint now) {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    state_->drop_late(now, ready);
  }
  give(ready);
}

void Engine::abandon(const msg::VersionKey& key, const std::optional<Error>& guilty, const Error& lost) {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    std::vector<std::shared_ptr<Request>> all;
    for (const State::Chosen* batch : state_->active) {
      for (const Piece& piece : batch->pieces) all.push_back(piece.request);
    }
    for (const auto& [id, piece] : state_->pieces) all.push_back(piece.request);
    for (const auto& request : all) {
      if (request->answered) continue;  // so its lane is still there
      const bool is_guilty = request->lane->version->key == key;
      if (!is_guilty || guilty) state_->finish(request, std::unexpected(is_guilty ? *guilty : lost), ready);
    }
  }
  give(ready);
}

void Engine::set_max_queued_bytes(std::size_t bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->max_queued_bytes = bytes;
}

std::size_t Engine::outstanding() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pieces.size() + state_->running;
}

std::optional<Engine::TimePoint> Engine::idle_since() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pieces.empty() && state_->running == 0 ? state_->ended : std::nullopt;
}

void Engine::stop() {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stopping) return;
    state_->stopping = true;
  }
  state_->work.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
  {
    const std::lock_guard lock(state_->mutex);
    while (!state_->pieces.empty()) {
      const auto request = state_->pieces.begin()->second.request;  // which finish() takes out, with its other parts
      state_->finish(request, fail(Code::kUnavailable, "the inferencer is stopping"), ready);
    }
  }
  give(ready);
}

}  // namespace slipway::inferencer

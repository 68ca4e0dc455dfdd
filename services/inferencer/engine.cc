#include "services/inferencer/engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <format>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "lib/base/log.h"
#include "services/inferencer/crash_guard.h"
#include "services/inferencer/metrics.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::microseconds in_us(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time);
}

// A request as its asker sees it; with more rows than one batch holds it has several parts.
struct Request {
  Asker asker;
  Engine::Done done;
  std::vector<std::optional<Answer>> parts;
  std::size_t missing = 1;
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

// An answer ready to be given, outside the lock.
struct Ready {
  std::shared_ptr<Request> request;
  Result<Answer> answer;
};

void give(std::vector<Ready>& all) {
  for (Ready& ready : all) {
    if (ready.answer) {
      metrics().requests_ok.Increment();
    } else {
      metrics().requests.Add({{"code", std::string(code_name(ready.answer.error().code))}}).Increment();
    }
    ready.request->done(std::move(ready.answer));
  }
  all.clear();
}

// One answer from the parts of a large request, row after row.
Result<Answer> join(std::vector<std::optional<Answer>>& parts) {
  if (parts.size() == 1) return std::move(*parts[0]);
  Answer whole;
  whole.outputs = parts[0]->outputs;
  for (std::size_t o = 0; o < whole.outputs.size(); ++o) {
    std::vector<std::byte> bytes;
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
      const auto more = part->payload[o].bytes();
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
    whole.outputs[o].shape[0] = rows;
    whole.payload.push_back(Frame::of(std::move(bytes)));
  }
  for (const auto& part : parts) {
    whole.batch_rows = std::max(whole.batch_rows, part->batch_rows);
    whole.queued = std::max(whole.queued, part->queued);
    whole.computed += part->computed;
  }
  return whole;
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

Error late() {
  return {
      .code = Code::kDeadlineExceeded, .message = "Request timeout expired while it waited for a batch", .path = {}};
}

}  // namespace

struct Engine::State {
  struct Lane {
    std::shared_ptr<const LoadedVersion> version;
    Batcher batcher;
    bool batchable = false;
    bool free_dimensions = false;
    int running = 0;
  };

  explicit State(const Options& given) : options(given) {}

  const Options options;
  mutable std::mutex mutex;
  std::condition_variable work;
  std::map<msg::VersionKey, Lane> lanes;
  std::unordered_map<std::uint64_t, Piece> pieces;  // waiting, by request id
  std::uint64_t next_id = 1;
  std::size_t queued_bytes = 0;
  std::size_t running = 0;
  bool stopping = false;
  std::vector<std::thread> threads;

  Piece take(RequestId id) {
    auto node = pieces.extract(static_cast<std::uint64_t>(id));
    queued_bytes -= node.mapped().bytes;
    metrics().queued_rows.Decrement(static_cast<double>(node.mapped().inputs.rows));
    return std::move(node.mapped());
  }

  // Ends a request: its other parts are not worth running any more.
  void finish(const std::shared_ptr<Request>& request, Result<Answer> answer, std::vector<Ready>& ready) {
    if (request->answered) return;
    request->answered = true;
    if (request->parts.size() > 1 && request->missing > 1) forget(request);
    ready.push_back({request, std::move(answer)});
  }

  void forget(const std::shared_ptr<Request>& request) {
    std::vector<std::uint64_t> ids;
    for (const auto& [id, piece] : pieces) {
      if (piece.request == request) ids.push_back(id);
    }
    for (const std::uint64_t id : ids) {
      for (auto& [key, lane] : lanes) {
        if (lane.batcher.cancel(RequestId{id})) break;
      }
      static_cast<void>(take(RequestId{id}));
    }
  }

  void drop_late(Lane& lane, TimePoint now, std::vector<Ready>& ready) {
    for (const RequestId id : lane.batcher.take_late(now)) {
      if (!pieces.contains(static_cast<std::uint64_t>(id))) continue;  // a part of a request that was just ended
      const Piece piece = take(id);
      finish(piece.request, std::unexpected(late()), ready);
    }
  }

  // The lane whose oldest request has waited longest among those with a batch to run, and that batch.
  struct Chosen {
    std::shared_ptr<const LoadedVersion> version;
    msg::VersionKey key;
    Batcher::Batch batch;
    std::vector<Piece> pieces;
  };
  std::vector<Chosen*> active;  // batches that run
  std::optional<Chosen> choose(TimePoint now, std::vector<Ready>& ready) {
    Lane* best = nullptr;
    for (auto& [key, lane] : lanes) {
      drop_late(lane, now, ready);
      const auto due = lane.batcher.due_at();
      if (due && *due <= now && (best == nullptr || *lane.batcher.oldest() < *best->batcher.oldest())) best = &lane;
    }
    if (best == nullptr) return std::nullopt;
    auto batch = best->batcher.take(now);
    if (!batch) return std::nullopt;
    Chosen chosen{.version = best->version, .key = best->version->key, .batch = std::move(*batch), .pieces = {}};
    chosen.pieces.reserve(chosen.batch.ids.size());
    for (const RequestId id : chosen.batch.ids) chosen.pieces.push_back(take(id));
    ++best->running;
    running += chosen.pieces.size();
    return chosen;
  }

  std::optional<TimePoint> next_due() const {
    std::optional<TimePoint> next;
    for (const auto& [key, lane] : lanes) {
      const auto due = lane.batcher.due_at();
      if (due && (!next || *due < *next)) next = due;
    }
    return next;
  }

  void run_thread();
  void run(Chosen& chosen, Scratch& scratch, std::vector<Result<Answer>>& answers) const;
};

Engine::Engine(const Options& options) : state_(std::make_unique<State>(options)) {
  for (int i = 0; i < std::max(1, options.instances); ++i)
    state_->threads.emplace_back([this] { state_->run_thread(); });
}

Engine::~Engine() { stop(); }

void Engine::State::run(Chosen& chosen, Scratch& scratch, std::vector<Result<Answer>>& answers) const {
  const Signature& signature = chosen.version->signature;
  const auto begun = Clock::now();
  std::vector<Part> parts;
  parts.reserve(chosen.pieces.size());
  for (const Piece& piece : chosen.pieces) {
    parts.push_back({.specs = piece.inputs.specs, .inputs = piece.inputs.frames, .rows = piece.inputs.rows});
    metrics().queue_wait.Observe(std::chrono::duration<double>(begun - piece.since).count());
  }
  auto latest = begun;
  for (const Piece& piece : chosen.pieces) latest = std::max(latest, piece.deadline.value_or(begun));
  const auto guard = Watchdog::watch(options.watchdog, {.key = chosen.key,
                                                        .digest = chosen.version->digest,
                                                        .uploaded = chosen.version->uploaded,
                                                        .until = latest + options.stuck_after});
  const CrashGuard::Scope scope(chosen.key, chosen.version->digest, chosen.version->uploaded);
  metrics().released(chosen.batch.reason).Increment();
  metrics().batch_rows.Observe(static_cast<double>(chosen.batch.rows));

  const auto answer_of = [&](std::size_t i, Outputs& outputs, Clock::time_point start, std::int64_t rows) {
    return Answer{.outputs = std::move(outputs.specs),
                  .payload = std::move(outputs.frames),
                  .batch_rows = rows,
                  .queued = in_us(start - chosen.pieces[i].since),
                  .computed = in_us(Clock::now() - start)};
  };
  auto ran = chosen.version->model->run(signature, parts, scratch);
  if (ran) {
    for (std::size_t i = 0; i < parts.size(); ++i) answers.push_back(answer_of(i, (*ran)[i], begun, chosen.batch.rows));
  } else if (parts.size() == 1) {
    answers.push_back(std::unexpected(std::move(ran).error()));
  } else {
    // One bad request must not fail the others of its batch.
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto start = Clock::now();
      auto alone = chosen.version->model->run(signature, std::span(parts).subspan(i, 1), scratch);
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
  Scratch scratch;
  std::vector<Ready> ready;
  std::unique_lock lock(mutex);
  while (!stopping) {
    auto chosen = choose(Clock::now(), ready);
    if (chosen) {
      std::vector<Result<Answer>> answers;
      answers.reserve(chosen->pieces.size());
      active.push_back(&*chosen);
      lock.unlock();
      give(ready);
      run(*chosen, scratch, answers);
      lock.lock();
      for (std::size_t i = 0; i < answers.size(); ++i) {
        const auto& request = chosen->pieces[i].request;
        if (request->answered) continue;
        if (!answers[i]) {
          finish(request, std::move(answers[i]), ready);
          continue;
        }
        request->parts[chosen->pieces[i].index] = std::move(*answers[i]);
        if (--request->missing == 0) finish(request, join(request->parts), ready);
      }
      std::erase(active, &*chosen);
      running -= chosen->pieces.size();
      --lanes.at(chosen->key).running;
      chosen.reset();
    }
    if (!ready.empty()) {
      lock.unlock();
      give(ready);
      lock.lock();
      continue;
    }
    if (stopping) break;
    if (const auto due = next_due(); due && *due <= Clock::now())
      continue;
    else if (due)
      work.wait_until(lock, *due);
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
  const bool free_dimensions = has_free_dimensions(version->signature);
  state_->lanes.try_emplace(key, State::Lane{.version = std::move(version),
                                             .batcher = Batcher(limits),
                                             .batchable = batchable,
                                             .free_dimensions = free_dimensions});
}

bool Engine::remove_if_idle(const msg::VersionKey& key) {
  std::shared_ptr<const LoadedVersion> gone;  // freed after the lock
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->lanes.find(key);
  if (found == state_->lanes.end()) return true;
  if (found->second.running > 0 || !found->second.batcher.empty()) return false;
  gone = std::move(found->second.version);
  state_->lanes.erase(found);
  return true;
}

std::shared_ptr<const LoadedVersion> Engine::find(const msg::VersionKey& key) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->lanes.find(key);
  return found == state_->lanes.end() ? nullptr : found->second.version;
}

void Engine::submit(const msg::VersionKey& key, CheckedInputs inputs, Asker asker, std::optional<TimePoint> deadline,
                    Done done) {
  auto request = std::make_shared<Request>();
  request->asker = std::move(asker);
  request->done = std::move(done);
  std::vector<Ready> ready;
  const auto refuse = [&](Error error) { ready.push_back({request, std::unexpected(std::move(error))}); };
  std::size_t bytes = 0;
  for (const Frame& frame : inputs.frames) bytes += frame.size();
  {
    const std::lock_guard lock(state_->mutex);
    const BatchLimits& limits = state_->options.limits;
    const auto found = state_->lanes.find(key);
    const auto now = Clock::now();
    if (state_->stopping) {
      refuse({.code = Code::kUnavailable, .message = "the inferencer is stopping", .path = {}});
    } else if (found == state_->lanes.end()) {
      refuse({.code = Code::kNotFound,
              .message = std::format("version {} of model '{}' is not loaded here", key.version, key.model),
              .path = {}});
    } else if (deadline && *deadline <= now) {
      refuse(late());
    } else if (inputs.rows > limits.max_queued_rows) {
      refuse({.code = Code::kTooLarge,
              .message = std::format("inference request batch-size must be <= {} for '{}', got {}",
                                     limits.max_queued_rows, key.model, inputs.rows),
              .path = {}});
    } else if (state_->queued_bytes + bytes > state_->options.max_queued_bytes) {
      refuse({.code = Code::kOverloaded,
              .message = std::format("Exceeds maximum queue size: {} bytes wait, at most {} may", state_->queued_bytes,
                                     state_->options.max_queued_bytes),
              .path = {}});
    } else if (State::Lane& lane = found->second; lane.batcher.queued_rows() + inputs.rows > limits.max_queued_rows) {
      refuse({.code = Code::kOverloaded,
              .message = std::format("Exceeds maximum queue size: {} rows wait for model '{}', at most {} may",
                                     lane.batcher.queued_rows(), key.model, limits.max_queued_rows),
              .path = {}});
    } else {
      Batcher::Group group;
      if (lane.free_dimensions) {
        for (const TensorSpec& spec : inputs.specs) {
          if (!spec.shape.empty()) group.insert(group.end(), spec.shape.begin() + 1, spec.shape.end());
        }
      }
      const std::int64_t rows = inputs.rows;
      const std::int64_t most = lane.batchable ? limits.max_rows : 1;
      const auto count = static_cast<std::size_t>((rows + most - 1) / most);
      request->parts.resize(count);
      request->missing = count;
      for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t from = static_cast<std::int64_t>(i) * most;
        const std::int64_t part_rows = std::min(most, rows - from);
        Piece piece{.request = request,
                    .index = i,
                    .inputs = count == 1 ? std::move(inputs) : slice(inputs, from, part_rows),
                    .bytes = 0,
                    .since = now,
                    .deadline = deadline};
        for (const Frame& frame : piece.inputs.frames) piece.bytes += frame.size();
        const RequestId id{state_->next_id++};
        if (auto queued = lane.batcher.add(id, part_rows, group, now, deadline); !queued) {
          state_->forget(request);
          request->answered = true;
          refuse(std::move(queued).error());
          break;
        }
        state_->queued_bytes += piece.bytes;
        metrics().queued_rows.Increment(static_cast<double>(part_rows));
        state_->pieces.emplace(static_cast<std::uint64_t>(id), std::move(piece));
      }
    }
  }
  state_->work.notify_one();
  give(ready);
}

void Engine::cancel(const Asker& asker) {
  const std::lock_guard lock(state_->mutex);
  for (const auto& [id, piece] : state_->pieces) {
    if (piece.request->asker != asker) continue;
    const auto request = piece.request;
    state_->forget(request);
    request->answered = true;
    metrics().requests.Add({{"code", "cancelled"}}).Increment();
    return;
  }
}

void Engine::expire(TimePoint now) {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    for (auto& [key, lane] : state_->lanes) state_->drop_late(lane, now, ready);
  }
  give(ready);
}

void Engine::abandon(const msg::VersionKey& key, const Error& guilty, const Error& lost) {
  std::vector<Ready> ready;
  {
    const std::lock_guard lock(state_->mutex);
    for (const State::Chosen* batch : state_->active) {
      for (const Piece& piece : batch->pieces)
        state_->finish(piece.request, std::unexpected(batch->key == key ? guilty : lost), ready);
    }
    while (!state_->pieces.empty()) {
      const RequestId id{state_->pieces.begin()->first};
      for (auto& [version, lane] : state_->lanes) {
        if (lane.batcher.cancel(id)) break;
      }
      const Piece piece = state_->take(id);
      state_->finish(piece.request, std::unexpected(lost), ready);
    }
  }
  give(ready);
}

std::size_t Engine::outstanding() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pieces.size() + state_->running;
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
      const Piece piece = state_->take(RequestId{state_->pieces.begin()->first});
      if (piece.request->answered) continue;
      piece.request->answered = true;
      ready.push_back({piece.request, fail(Code::kUnavailable, "the inferencer is stopping")});
    }
  }
  give(ready);
}

}  // namespace slipway::inferencer

#include "services/registry/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <format>
#include <map>
#include <mutex>
#include <thread>

#include "lib/base/log.h"
#include "services/registry/call_queue.h"
#include "services/registry/catalog.h"
#include "services/registry/dataset_inspection.h"
#include "services/registry/names.h"
#include "services/registry/registry_metrics.h"
#include "services/registry/strand_pool.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kPoolThreads = 4;
constexpr auto kTickEvery = 100ms;
constexpr auto kHousekeepingEvery = 10s;
constexpr std::size_t kPartCharge = 4096;  // what a queued part costs besides its bytes
constexpr auto kStandstill = 1s;           // a pause of the writer after which leases are extended by it

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

// Who asked, and until when the answer matters.
struct Call {
  SocketId socket{};
  std::string peer;
  std::uint64_t correlation = 0;
  std::string request_id;
  const char* kind = "";
  CallQueue::Rank rank = CallQueue::Rank::kOther;
  Clock::time_point deadline = Clock::time_point::max();
};

CallQueue::Rank rank_of(const msg::Body& body) {
  const bool lease = std::holds_alternative<msg::ReportJob>(body) || std::holds_alternative<msg::ClaimJob>(body) ||
                     std::holds_alternative<msg::CommitCheckpoint>(body) ||
                     std::holds_alternative<msg::Publish>(body) || std::holds_alternative<msg::EndAttempt>(body);
  return lease ? CallQueue::Rank::kLease : CallQueue::Rank::kOther;
}

}  // namespace

struct Server::State {
  State(Bus& the_bus, ServerOptions the_options, std::unique_ptr<RocksStore> the_store,
        std::unique_ptr<ChunkStore> the_chunks)
      : bus(the_bus),
        options(std::move(the_options)),
        store(std::move(the_store)),
        chunks(std::move(the_chunks)),
        uploads(options.uploads, *chunks),
        catalog(*store),
        jobs(*store, catalog, options.jobs),
        queue(options.max_queued_calls) {}

  ~State() {
    const std::lock_guard lock(gate->mutex);
    gate->state = nullptr;
  }

  Bus& bus;
  const ServerOptions options;
  std::unique_ptr<RocksStore> store;
  std::unique_ptr<ChunkStore> chunks;
  UploadTable uploads;
  RegistryMetrics metrics;
  SocketId calls_socket{};
  SocketId events_socket{};

  // Writer only.
  Catalog catalog;
  JobBook jobs;
  std::map<UploadId, msg::GetVersion> committed_versions;  // by upload: repeats of commitVersion

  CallQueue queue;  // for the writer

  // Between the bus, which keeps the handler, and this: null once this is gone.
  struct Gate {
    explicit Gate(State* owner) : state(owner) {}
    std::mutex mutex;
    State* state;
  };
  const std::shared_ptr<Gate> gate = std::make_shared<Gate>(this);

  std::atomic<bool> refusing{false};
  std::atomic<bool> sweeping{false};
  std::atomic<std::size_t> queued_upload_bytes{0};
  std::atomic<std::size_t> queued_pool_calls{0};
  std::unique_ptr<StrandPool> pool;
  std::thread writer;

  static Now now() {
    return {.steady = Clock::now(),
            .unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count()};
  }

  // --- answers ---

  void answer(const Call& call, Result<msg::Body> body, std::vector<Frame> payload = {}) {
    metrics.count_request(call.kind, body ? "ok" : code_name(body.error().code).data());
    if (!body && (body.error().code == Code::kInternal || body.error().code == Code::kDataLoss)) {
      spdlog::error("call failed kind={} code={} message={} request={}", call.kind, code_name(body.error().code),
                    log_value(body.error().message), call.request_id);
    }
    if (call.correlation == 0) return;
    Message message{.envelope = {.correlation = call.correlation,
                                 .request_id = call.request_id,
                                 .body = body ? std::move(*body) : msg::Body(to_message(body.error()))},
                    .payload = std::move(payload)};
    if (const auto sent = bus.answer(call.socket, call.peer, std::move(message)); !sent) {
      spdlog::warn("answer dropped kind={} code={} message={} request={}", call.kind, code_name(sent.error().code),
                   log_value(sent.error().message), log_value(call.request_id));
    }
  }

  template <class T>
  void answer_as(const Call& call, Result<T> result) {
    if (!result) return answer(call, std::unexpected(std::move(result).error()));
    if constexpr (std::is_void_v<T>) {
      answer(call, msg::Ok{});
    } else {
      answer(call, msg::Body(std::move(*result)));
    }
  }

  // The answer kinds that hold a list, from the one thing or the list of them.
  template <class Kind, class T>
  void answer_list(const Call& call, Result<T> result) {
    if (!result) return answer(call, std::unexpected(std::move(result).error()));
    Kind kind;
    if constexpr (std::is_same_v<T, decltype(kind.items)>) {
      kind.items = std::move(*result);
    } else {
      kind.items.push_back(std::move(*result));
    }
    answer(call, std::move(kind));
  }

  static Error overloaded(std::string message) {
    return {.code = Code::kOverloaded, .message = std::move(message), .path = {}, .retry_after = 200ms};
  }

  static Error stopping() {
    return {.code = Code::kUnavailable, .message = "the registry is stopping", .path = {}, .retry_after = 1s};
  }

  // Errors: kUnavailable (the registry stops), kDeadlineExceeded.
  [[nodiscard]] Result<void> still_wanted(const Call& call) const {
    if (refusing) return std::unexpected(stopping());
    if (Clock::now() < call.deadline) return {};
    return fail(Code::kDeadlineExceeded, "the deadline passed before the call was through");
  }

  // --- from the bus ---

  void on_call(Incoming incoming) {
    auto& envelope = incoming.message.envelope;
    Call call{.socket = incoming.socket,
              .peer = std::move(incoming.peer),
              .correlation = envelope.correlation,
              .request_id = std::move(envelope.request_id),
              .kind = kind_name(envelope.body),
              .rank = rank_of(envelope.body)};
    if (envelope.deadline_ms > 0) call.deadline = Clock::now() + std::chrono::milliseconds(envelope.deadline_ms);
    if (refusing) return answer(call, std::unexpected(stopping()));
    if (const auto* part = std::get_if<msg::UploadPart>(&envelope.body)) {
      return on_part(call, *part, std::move(incoming.message.payload));
    }
    if (!incoming.message.payload.empty()) {
      return answer(call, fail(Code::kInvalidArgument, std::format("{} carries no payload, {} frames came", call.kind,
                                                                   incoming.message.payload.size())));
    }
    std::visit(Overloaded{[&](msg::OpenUpload&) { open_upload(call); },
                          [&](msg::AbortUpload& q) {
                            // At once, and so also when its deadline is near: what it frees others wait for.
                            uploads.drop(q.upload);
                            answer(call, msg::Ok{});
                          },
                          [&](msg::GetUpload& q) {
                            with_files(call, q.upload, [this, call](auto files) {
                              if (!files) return answer(call, std::unexpected(std::move(files).error()));
                              answer(call, msg::UploadedFiles{.files = std::move(*files)});
                            });
                          },
                          [&](msg::GetChunk& q) { in_pool(call, {}, [this, call, q] { get_chunk(call, q); }); },
                          [&](msg::CommitDataset& q) { commit_dataset(call, std::move(q)); },
                          [&](msg::CommitCheckpoint& q) { commit_files(call, std::move(q)); },
                          [&](msg::Publish& q) { commit_files(call, std::move(q)); },
                          [&](msg::CommitVersion& q) { commit_files(call, std::move(q)); },
                          [&]<class Question>(Question& q) {
                            if constexpr (requires { handle(call, q); }) {
                              on_writer(call, [this, call, q = std::move(q)] { handle(call, q); });
                            } else {
                              answer(call, fail(Code::kUnsupported,
                                                std::format("the registry does not answer messages of the kind {}",
                                                            call.kind)));
                            }
                          }},
               envelope.body);
  }

  void on_part(const Call& call, const msg::UploadPart& part, std::vector<Frame> payload) {
    if (payload.size() != 1) {
      return answer(call, fail(Code::kInvalidArgument,
                               std::format("uploadPart carries one payload frame, {} came", payload.size())));
    }
    const std::size_t size = payload[0].size() + kPartCharge;
    if (queued_upload_bytes + size > options.max_queued_upload_bytes) {
      return answer(call, std::unexpected(overloaded(
                              std::format("{} bytes of uploads wait to be stored", queued_upload_bytes.load()))));
    }
    queued_upload_bytes += size;
    // Given back also when the part is never looked at.
    std::shared_ptr<void> charge(nullptr, [this, size](void*) { queued_upload_bytes -= size; });
    in_pool(call, part.upload.text(), [this, call, part, frame = std::move(payload[0]), charge]() mutable {
      auto upload = uploads.use(part.upload, Clock::now());
      auto taken = upload ? (*upload)->add(part, frame.bytes()) : std::unexpected(std::move(upload).error());
      frame = {};
      charge.reset();
      answer_as(call, std::move(taken));
    });
  }

  void open_upload(const Call& call) {
    in_pool(call, {}, [this, call] {
      const auto free = free_bytes(options.data_dir);
      if (!free) return answer(call, std::unexpected(free.error()));
      if (*free < options.min_free_bytes) {
        return answer(call, std::unexpected(Error{.code = Code::kUnavailable,
                                                  .message = std::format("the registry's disk is full: {} bytes are "
                                                                         "free, {} are kept free",
                                                                         *free, options.min_free_bytes),
                                                  .path = {},
                                                  .retry_after = 5s}));
      }
      auto id = uploads.open(Clock::now(), call.peer);
      if (!id) return answer(call, std::unexpected(std::move(id).error()));
      answer(call, msg::UploadOpened{.upload = std::move(*id)});
    });
  }

  void get_chunk(const Call& call, const msg::GetChunk& question) {
    auto bytes = chunks->get(question.digest);
    if (!bytes) return answer(call, std::unexpected(std::move(bytes).error()));
    std::vector<Frame> payload;
    payload.push_back(Frame::of(std::move(*bytes)));
    answer(call, msg::Ok{}, std::move(payload));
  }

  // --- the pool ---

  // Answers instead of working when nobody wants the work any more once its turn comes.
  void in_pool(const Call& call, const std::string& key, StrandPool::Work work) {
    if (queued_pool_calls >= options.max_queued_calls) {
      return answer(call, std::unexpected(overloaded("too many calls wait for the disk")));
    }
    ++queued_pool_calls;
    pool->post(key, [this, call, work = std::move(work)] {
      --queued_pool_calls;
      if (auto wanted = still_wanted(call); !wanted) return answer(call, std::unexpected(std::move(wanted).error()));
      work();
    });
  }

  // Calls `then` in the pool with the closed files of the upload, after all its parts that came before.
  template <class Then>
  void with_files(const Call& call, const UploadId& id, Then then) {
    in_pool(call, id.text(), [this, id, then = std::move(then)] {
      auto upload = uploads.use(id, Clock::now());
      then(upload ? (*upload)->files() : std::unexpected(std::move(upload).error()));
    });
  }

  void commit_dataset(const Call& call, msg::CommitDataset question) {
    if (auto named = check_name("data set", question.name); !named) {
      return answer(call, std::unexpected(std::move(named).error()));
    }
    const UploadId id = question.upload;
    in_pool(call, id.text(), [this, call, question = std::move(question)] {
      auto upload = uploads.use(question.upload, Clock::now());
      if (!upload) return answer(call, std::unexpected(std::move(upload).error()));
      const auto files = (*upload)->files();
      if (!files) return answer(call, std::unexpected(files.error()));
      // The asker repeats the question while this runs; the repeats wait behind it and find what it found.
      Result<Dataset> described = Dataset();
      if (const auto* known = (*upload)->described()) {
        described = *known;
      } else {
        described = inspect_files(*chunks, *files, [this, &call] { return still_wanted(call); });
        if (is_lasting(described)) (*upload)->set_described(described);
      }
      if (!described) return answer(call, std::unexpected(std::move(described).error()));
      described->name = question.name;
      // The pointer keeps the upload, and so its chunks, until the commit is through.
      on_writer(call, [this, call, held = *upload, id = question.upload, described = std::move(*described)] {
        auto stored = catalog.commit_dataset(described, now().unix_ms);
        if (stored) uploads.set_committed(id);
        if (stored && stored->created) {
          spdlog::info("data set stored name={} version={} rows={} bytes={} request={}", stored->dataset.name,
                       stored->dataset.version, stored->dataset.rows, stored->dataset.size_bytes, call.request_id);
        }
        answer_as(call, std::move(stored));
      });
    });
  }

  template <class Question>
  void commit_files(const Call& call, Question question) {
    const UploadId id = question.upload;
    in_pool(call, id.text(), [this, call, question = std::move(question)] {
      auto upload = uploads.use(question.upload, Clock::now());
      Result<std::vector<StoredFile>> files = upload ? (*upload)->files() : std::unexpected(upload.error());
      on_writer(call, [this, call, question, held = std::move(upload), files = std::move(files)] {
        commit(call, question, files);
      });
    });
  }

  // --- the writer ---

  void on_writer(const Call& call, std::function<void()> work) {
    const bool queued = queue.push(call.rank, [this, call, work = std::move(work)] {
      if (Clock::now() < call.deadline) return work();
      answer(call, fail(Code::kDeadlineExceeded, "the deadline passed while the call waited"));
    });
    if (!queued) answer(call, std::unexpected(overloaded("too many calls wait")));
  }

  void commit(const Call& call, const msg::CommitCheckpoint& q, Result<std::vector<StoredFile>> files) {
    auto done = jobs.commit_checkpoint(q, std::move(files), now());
    if (done) uploads.set_committed(q.upload);
    answer_as(call, std::move(done));
  }
  void commit(const Call& call, const msg::Publish& q, Result<std::vector<StoredFile>> files) {
    auto version = jobs.publish(q, std::move(files), now());
    if (version) {
      uploads.set_committed(q.upload);
      spdlog::info("version published model={} version={} job={}", version->model, version->number, q.lease.job.text());
    }
    answer_list<msg::Versions>(call, std::move(version));
  }
  void commit(const Call& call, const msg::CommitVersion& q, Result<std::vector<StoredFile>> files) {
    if (const auto made = committed_versions.find(q.upload); made != committed_versions.end()) {
      return answer_list<msg::Versions>(call, catalog.version(made->second));
    }
    if (!files) return answer(call, std::unexpected(std::move(files).error()));
    auto version = catalog.commit_version(q, std::move(*files), now().unix_ms);
    if (version) {
      uploads.set_committed(q.upload);
      committed_versions[q.upload] = {.model = version->model, .version = version->number, .alias = {}};
      spdlog::info("version uploaded model={} version={} request={}", version->model, version->number, call.request_id);
    }
    answer_list<msg::Versions>(call, std::move(version));
  }

  void handle(const Call& c, const msg::GetDataset& q) {
    answer_list<msg::Datasets>(c, catalog.dataset(q.name, q.version));
  }
  void handle(const Call& c, const msg::ListDatasets& q) { answer_list<msg::Datasets>(c, catalog.list_datasets(q)); }
  void handle(const Call& c, const msg::CreateJob& q) { answer_list<msg::Jobs>(c, jobs.create(q, now())); }
  void handle(const Call& c, const msg::GetJob& q) { answer_list<msg::Jobs>(c, jobs.get(q.id)); }
  void handle(const Call& c, const msg::ListJobs& q) { answer_list<msg::Jobs>(c, jobs.list(q)); }
  void handle(const Call& c, const msg::CancelJob& q) { answer_list<msg::Jobs>(c, jobs.cancel(q.id, now())); }
  void handle(const Call& c, const msg::ListJobEvents& q) { answer_list<msg::JobEvents>(c, jobs.events(q)); }
  void handle(const Call& c, const msg::ClaimJob& q) {
    auto run = jobs.claim(q.worker, now());
    if (run) {
      spdlog::info("job claimed job={} attempt={} worker={}", run->job.id.text(), run->job.attempt, q.worker.text());
    }
    answer_as(c, std::move(run));
  }
  void handle(const Call& c, const msg::ReportJob& q) { answer_as(c, jobs.report(q, now())); }
  void handle(const Call& c, const msg::GetCheckpoint& q) { answer_list<msg::Checkpoints>(c, jobs.checkpoint(q.job)); }
  void handle(const Call& c, const msg::EndAttempt& q) {
    auto ended = jobs.end_attempt(q, now());
    if (ended) {
      spdlog::info("attempt ended job={} outcome={} reason={} message={}", q.lease.job.text(),
                   static_cast<int>(q.outcome), log_value(q.reason), log_value(q.message));
    }
    answer_as(c, std::move(ended));
  }
  void handle(const Call& c, const msg::GetVersion& q) { answer_list<msg::Versions>(c, catalog.version(q)); }
  void handle(const Call& c, const msg::ListVersions& q) { answer_list<msg::Versions>(c, catalog.list_versions(q)); }
  void handle(const Call& c, const msg::GetModel& q) { answer_list<msg::Models>(c, catalog.model(q.model)); }
  void handle(const Call& c, const msg::ListModels& q) { answer_list<msg::Models>(c, catalog.list_models(q)); }
  void handle(const Call& c, const msg::MoveAlias& q) {
    auto moved = catalog.move_alias(q, now().unix_ms);
    if (moved) {
      spdlog::info("alias moved model={} alias={} to={} actor={} request={}", q.model, q.alias, q.to,
                   log_value(q.actor), c.request_id);
    }
    answer_list<msg::Models>(c, std::move(moved));
  }
  void handle(const Call& c, const msg::ListAliasMoves& q) {
    answer_list<msg::AliasMoves>(c, catalog.list_alias_moves(q.model));
  }

  void run_writer() {
    auto last_round = Clock::now();
    auto next_tick = last_round;
    auto next_housekeeping = last_round;
    auto next_sweep = last_round;
    for (;;) {
      auto work = queue.pop(kTickEvery);
      if (!work && queue.ended()) return;
      if (work) work();

      const auto time = Clock::now();
      if (time - last_round > kStandstill) jobs.extend_leases(time - last_round);
      last_round = time;
      if (time >= next_tick) {
        next_tick = time + kTickEvery;
        if (auto expired = jobs.expire(now()); !expired) {
          spdlog::warn("lost jobs not taken back yet error={}", log_value(expired.error().message));
        }
        metrics.set_jobs(jobs.jobs_by_state());
        metrics.set_stored_bytes(chunks->stored_bytes());
        metrics.set_uploads(uploads.size());
      }
      if (time >= next_housekeeping) {
        next_housekeeping = time + kHousekeepingEvery;
        if (const auto dropped = uploads.drop_idle(time); dropped > 0) {
          spdlog::info("idle uploads dropped count={}", dropped);
        }
        std::erase_if(committed_versions, [&](const auto& made) { return !uploads.contains(made.first); });
        if (const auto free = free_bytes(options.data_dir)) metrics.set_free_bytes(*free);
      }
      if (time >= next_sweep) {
        next_sweep = time + options.sweep_every;
        if (!sweeping.exchange(true)) pool->post({}, [this] { sweep(); });
      }
    }
  }

  // In the pool: reads every record that names chunks.
  void sweep() {
    const auto older_than = std::filesystem::file_time_type::clock::now() - options.sweep_grace;
    DigestSet uploading;
    uploads.add_chunks(uploading);  // before the records: a commit in between moves chunks from here to there
    auto referenced = catalog.collect_chunks();
    if (referenced) {
      referenced->merge(uploading);
      const auto deleted = chunks->sweep(*referenced, older_than);
      if (deleted > 0) spdlog::info("unreferenced chunks deleted count={}", deleted);
    } else {
      spdlog::error("chunk sweep given up error={}", log_value(referenced.error().message));
    }
    sweeping = false;
  }

  void publish(const std::vector<msg::Changed>& changes) {
    for (const msg::Changed& change : changes) {
      Message message;
      message.envelope.body = change;
      if (const auto sent = bus.send(events_socket, std::move(message)); !sent) {
        spdlog::warn("event dropped revision={} code={}", change.revision, code_name(sent.error().code));
      }
    }
  }
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(Bus& bus, ServerOptions options) {
  auto store = RocksStore::open(options.data_dir / "db", {.min_free_bytes = options.min_free_bytes});
  if (!store) return std::unexpected(std::move(store).error());
  auto chunks = ChunkStore::open(options.data_dir / "chunks", options.min_free_bytes);
  if (!chunks) return std::unexpected(std::move(chunks).error());

  auto owned = std::make_unique<State>(bus, std::move(options), std::move(*store), std::move(*chunks));
  State* state = owned.get();
  if (auto loaded = state->jobs.load(State::now()); !loaded) return std::unexpected(std::move(loaded).error());

  auto events = bus.bind_publisher(state->options.events_address);
  if (!events) return std::unexpected(std::move(events).error());
  state->events_socket = *events;
  state->store->on_commit([state](const auto& changes, auto took) {
    state->metrics.observe_commit(took);
    state->publish(changes);
  });
  state->pool = std::make_unique<StrandPool>(kPoolThreads);

  auto calls = bus.bind_router(state->options.calls_address, [gate = state->gate](Incoming incoming) {
    const std::lock_guard lock(gate->mutex);
    if (gate->state != nullptr) gate->state->on_call(std::move(incoming));
  });
  if (!calls) return std::unexpected(std::move(calls).error());
  state->calls_socket = *calls;
  state->writer = std::thread([state] { state->run_writer(); });
  return std::unique_ptr<Server>(new Server(std::move(owned)));
}

int Server::calls_port() const { return state_->bus.port(state_->calls_socket); }
int Server::events_port() const { return state_->bus.port(state_->events_socket); }

std::string Server::not_ready() const {
  if (state_->refusing) return "stopping";
  const std::string broken = state_->store->unhealthy();
  return broken.empty() ? "" : "the database cannot be written: " + broken;
}

void Server::stop() {
  state_->refusing = true;
  if (!state_->writer.joinable()) return;
  // The pool first: what it finishes may still go to the writer.
  state_->pool->stop();
  state_->queue.close();
  state_->writer.join();
}

}  // namespace slipway::registry

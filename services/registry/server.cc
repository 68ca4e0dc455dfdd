#include "services/registry/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <format>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "lib/base/log.h"
#include "lib/base/secret.h"
#include "lib/base/sha256.h"
#include "schema/limits.h"
#include "services/registry/answer_budget.h"
#include "services/registry/backup_maker.h"
#include "services/registry/call_queue.h"
#include "services/registry/catalog.h"
#include "services/registry/chunk_index.h"
#include "services/registry/dataset_inspection.h"
#include "services/registry/names.h"
#include "services/registry/part_gate.h"
#include "services/registry/quarantine_book.h"
#include "services/registry/registry_metrics.h"
#include "services/registry/restore.h"
#include "services/registry/store_format.h"
#include "services/registry/strand_pool.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kPoolThreads = 4;
constexpr int kReaders = 2;
constexpr auto kTickEvery = 100ms;
constexpr auto kKnockEvery = 1s;
constexpr auto kHousekeepingEvery = 10s;
constexpr auto kPurgeEvery = 1h;
constexpr auto kPurgeMoreEvery = 2s;          // while there is more than one commit takes
constexpr std::size_t kMaxRetired = 100'000;  // chunks; those that are too many wait for the sweep
constexpr std::size_t kBackupFiles = 1'000;   // on a page, at most
constexpr std::size_t kPartCharge = 4096;     // what a queued part costs besides its bytes
constexpr auto kStandstill = 1s;              // a pause of the writer after which leases are extended by it

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

// Who asked, and until when the answer matters.
struct Call {
  SocketId socket{};
  std::string peer;
  std::uint64_t correlation = 0;
  std::string request_id;  // made plain
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

// Something that is done by one at a time.
struct Turn {
  explicit Turn(std::atomic<bool>& taken) : taken_(taken) {}
  ~Turn() { taken_ = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& taken_;
};

}  // namespace

struct Server::State {
  State(Bus& the_bus, ServerOptions the_options, std::unique_ptr<RocksStore> the_store,
        std::unique_ptr<ChunkStore> the_chunks)
      : bus(the_bus),
        options(std::move(the_options)),
        store(std::move(the_store)),
        chunks(std::move(the_chunks)),
        uploads(options.uploads, *chunks),
        parts(options.max_queued_upload_bytes),
        chunk_budget(std::make_shared<AnswerBudget>(options.max_answer_bytes, options.max_answer_bytes_per_peer)),
        catalog(*store),
        quarantines(*store),
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
  PartGate parts;
  ChunkIndex index;  // of what stays: data sets and versions
  RegistryMetrics metrics;
  SocketId calls_socket{};
  SocketId events_socket{};

  // getChunk and readBackup of peers to whom enough is on its way already, by peer.
  using ReadChunk = std::function<Result<std::vector<std::byte>>()>;
  struct WaitingChunk {
    Call call;
    ReadChunk read;
  };
  const std::shared_ptr<AnswerBudget> chunk_budget;
  std::mutex chunks_mutex;
  std::map<std::string, std::deque<WaitingChunk>> waiting_chunks;
  std::size_t waiting_chunks_count = 0;
  std::string last_served;  // of those who wait

  // Writes from the writer only; readers ask what is const.
  Catalog catalog;
  QuarantineBook quarantines;
  JobBook jobs;

  // Held shared by whoever deletes chunks, alone by a backup.
  std::shared_mutex deleting;

  std::mutex retired_mutex;
  std::vector<Digest> retired;  // chunks of checkpoints that have given way

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
  std::atomic<bool> retiring{false};
  std::atomic<std::uint64_t> wrong_secrets{0};
  std::atomic<std::size_t> queued_pool_calls{0};
  std::atomic<std::size_t> queued_reads{0};
  std::unique_ptr<StrandPool> pool;
  std::unique_ptr<StrandPool> readers;
  std::unique_ptr<BackupMaker> backups;  // null: none are made
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
                    log_value(body.error().message), log_value(call.request_id));
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

  // --- faults: a call that throws is answered, and costs nobody else his ---

  void failed(const char* what, const std::exception& failure) {
    metrics.count_handler_failure();
    spdlog::error("registry fault at={} message={}", what, log_value(failure.what()));
  }

  template <class Work>
  void guarded(const Call& call, const Work& work) {
    try {
      work();
    } catch (const std::exception& failure) {
      metrics.count_handler_failure();
      answer(call, fail(Code::kInternal, std::format("a fault of the registry at {}: {}", call.kind, failure.what())));
    }
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
              .request_id = plain_text(envelope.request_id, kMaxRequestIdBytes),
              .kind = kind_name(envelope.body),
              .rank = rank_of(envelope.body)};
    if (envelope.deadline_ms > 0) call.deadline = Clock::now() + std::chrono::milliseconds(envelope.deadline_ms);
    if (!options.cluster_secret.empty() && !same_secret(options.cluster_secret, envelope.secret)) {
      return refuse_stranger(call);
    }
    if (refusing) return answer(call, std::unexpected(stopping()));
    guarded(call, [&] { take(call, std::move(incoming.message)); });
  }

  void refuse_stranger(const Call& call) {
    metrics.count_wrong_secret();
    if (const auto count = ++wrong_secrets; is_worth_a_line(count))
      spdlog::warn("call without the cluster's secret count={} kind={}", count, call.kind);
    // Not the fault of whoever asked a service that was set up wrong.
    answer(call, fail(Code::kUnavailable, "this is not the cluster's secret (--cluster-secret)"));
  }

  void take(const Call& call, Message message) {
    auto& envelope = message.envelope;
    if (const auto* part = std::get_if<msg::UploadPart>(&envelope.body)) {
      return on_part(call, *part, std::move(message.payload));
    }
    if (!message.payload.empty()) {
      return answer(call, fail(Code::kInvalidArgument, std::format("{} carries no payload, {} frames came", call.kind,
                                                                   message.payload.size())));
    }
    std::visit(
        Overloaded{
            [&](msg::OpenUpload&) { open_upload(call); },
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
            [&](msg::GetChunk& q) {
              if (q.digest.empty()) return answer(call, fail(Code::kInvalidArgument, "getChunk without a digest"));
              get_chunk(call, [this, digest = q.digest] { return chunks->get(digest); });
            },
            [&](msg::CreateBackup& q) {
              if (auto plain = check_text("actor", q.actor, kMaxActorBytes); !plain)
                return answer(call, std::unexpected(std::move(plain).error()));
              with_backups(call, [this, call, q = std::move(q)] {
                answer_list<msg::Backups>(call, backups->begin(q.keep, q.actor, now().unix_ms));
              });
            },
            [&](msg::ListBackups& q) {
              with_backups(call,
                           [this, call, q = std::move(q)] { answer_list<msg::Backups>(call, backups->list(q.id)); });
            },
            [&](msg::DeleteBackup& q) {
              if (auto plain = check_text("actor", q.actor, kMaxActorBytes); !plain)
                return answer(call, std::unexpected(std::move(plain).error()));
              with_backups(call, [this, call, q = std::move(q)] { delete_backup(call, q); });
            },
            [&](msg::ListBackupFiles& q) {
              with_backups(call, [this, call, q = std::move(q)] {
                const std::size_t limit = q.limit == 0 ? 100 : std::min<std::size_t>(q.limit, kBackupFiles);
                answer_list<msg::BackupFiles>(call, backups->folder().files(q.id, q.after, limit));
              });
            },
            [&](msg::ReadBackup& q) {
              if (!backups) return answer(call, std::unexpected(no_backups()));
              get_chunk(call,
                        [this, q = std::move(q)] { return backups->folder().read(q.id, q.file, q.offset_bytes); });
            },
            [&](msg::CommitDataset& q) { commit_dataset(call, std::move(q)); },
            [&](msg::CommitCheckpoint& q) { commit_files(call, std::move(q)); },
            [&](msg::Publish& q) { commit_files(call, std::move(q)); },
            [&](msg::CommitVersion& q) {
              if (auto named = check_name("model", q.model); !named) {
                return answer(call, std::unexpected(std::move(named).error()));
              }
              commit_files(call, std::move(q));
            },
            [&]<class Question>(Question& q) {
              if constexpr (requires { look_up(call, q); }) {
                on_reader(call, [this, call, q = std::move(q)] { look_up(call, q); });
              } else if constexpr (requires { handle(call, q); }) {
                on_writer(call, [this, call, q = std::move(q)] { handle(call, q); });
              } else {
                answer(call, fail(Code::kUnsupported,
                                  std::format("the registry does not answer messages of the kind {}", call.kind)));
              }
            }},
        envelope.body);
  }

  void on_part(const Call& call, const msg::UploadPart& part, std::vector<Frame> payload) {
    if (payload.size() != 1) {
      return answer(call, fail(Code::kInvalidArgument,
                               std::format("uploadPart carries one payload frame, {} came", payload.size())));
    }
    const auto known = uploads.use(part.upload, Clock::now());
    if (!known) return answer(call, std::unexpected(known.error()));
    const std::size_t size = payload[0].size() + kPartCharge;
    if (!parts.enter(part.upload, size)) {
      (*known)->note_refused();
      return answer(call, std::unexpected(
                              overloaded(std::format("{} bytes of uploads wait to be stored", parts.waiting_bytes()))));
    }
    // Given back also when the part is never looked at.
    std::shared_ptr<void> charge(nullptr, [this, id = part.upload, size](void*) { parts.leave(id, size); });
    const bool queued =
        in_pool(call, part.upload.text(), [this, call, part, frame = std::move(payload[0]), charge]() mutable {
          auto upload = uploads.use(part.upload, Clock::now());
          auto taken = upload ? (*upload)->add(part, frame.bytes()) : std::unexpected(std::move(upload).error());
          frame = {};
          charge.reset();
          answer_as(call, std::move(taken));
        });
    if (!queued) (*known)->note_refused();
  }

  void open_upload(const Call& call) {
    (void)in_pool(call, {}, [this, call] {
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

  // --- chunks: what is on its way to the askers is bounded, in all and for each; the rest waits here ---

  void get_chunk(const Call& call, ReadChunk read) {
    {
      const std::lock_guard lock(chunks_mutex);
      auto& own = waiting_chunks[call.peer];
      // A repeat of one that waits has its answer when that one has.
      if (call.correlation != 0 && std::ranges::any_of(own, [&](const WaitingChunk& waiting) {
            return waiting.call.correlation == call.correlation;
          })) {
        return;
      }
      auto share = own.empty() ? chunk_budget->take(call.peer, kChunkBytes, Clock::now()) : nullptr;
      const bool full = !share && waiting_chunks_count >= options.max_queued_calls;
      if (!share && !full) {
        own.push_back({.call = call, .read = std::move(read)});
        ++waiting_chunks_count;
        return;
      }
      if (own.empty()) waiting_chunks.erase(call.peer);
      if (share) return read_chunk(call, std::move(read), std::move(share));
    }
    answer(call, std::unexpected(overloaded("too many calls wait for chunks")));
  }

  void read_chunk(const Call& call, ReadChunk read, std::shared_ptr<AnswerBudget::Share> share) {
    (void)in_pool(call, {}, [this, call, read = std::move(read), share = std::move(share)] {
      auto bytes = read();
      if (!bytes) return answer(call, std::unexpected(std::move(bytes).error()));
      std::vector<Frame> payload;
      payload.push_back(AnswerBudget::frame(std::move(*bytes), share));
      answer(call, msg::Ok{}, std::move(payload));
    });
  }

  // Those whose turn has come, in turn one of each peer; those that nobody wants any more are answered.
  void start_waiting_chunks() {
    const auto time = Clock::now();
    std::vector<Call> late;
    {
      const std::lock_guard lock(chunks_mutex);
      std::string last_asked = last_served;
      for (auto& [peer, waiting] : waiting_chunks) {
        waiting_chunks_count -= std::erase_if(waiting, [&](WaitingChunk& chunk) {
          if (!refusing && time < chunk.call.deadline) return false;
          late.push_back(std::move(chunk.call));
          return true;
        });
      }
      std::erase_if(waiting_chunks, [](const auto& item) { return item.second.empty(); });
      // Until nobody got one in a whole round. It begins behind the one who was served last, also last time.
      for (std::size_t passed_over = 0; passed_over < waiting_chunks.size();) {
        auto own = waiting_chunks.upper_bound(last_asked);
        if (own == waiting_chunks.end()) own = waiting_chunks.begin();
        last_asked = own->first;
        auto share = chunk_budget->take(own->first, kChunkBytes, time);
        if (!share) {
          ++passed_over;
          continue;
        }
        passed_over = 0;
        last_served = own->first;
        read_chunk(own->second.front().call, std::move(own->second.front().read), std::move(share));
        own->second.pop_front();
        --waiting_chunks_count;
        if (own->second.empty()) waiting_chunks.erase(own);
      }
    }
    for (const Call& call : late) {
      if (auto wanted = still_wanted(call); !wanted) answer(call, std::unexpected(std::move(wanted).error()));
    }
  }

  // --- the pool and the readers ---

  // Both answer instead of working when nobody wants the work any more once its turn comes. False: too many wait, or
  // the registry stops; that is answered too.
  bool in_pool(const Call& call, const std::string& key, StrandPool::Work work) {
    return queue_on(*pool, queued_pool_calls, call, key, std::move(work));
  }
  void on_reader(const Call& call, StrandPool::Work work) {
    (void)queue_on(*readers, queued_reads, call, {}, std::move(work));
  }

  bool queue_on(StrandPool& threads, std::atomic<std::size_t>& queued, const Call& call, const std::string& key,
                StrandPool::Work work) {
    if (queued >= options.max_queued_calls) {
      answer(call, std::unexpected(overloaded("too many calls wait for the disk")));
      return false;
    }
    ++queued;
    const bool posted = threads.post(key, [this, &queued, call, work = std::move(work)] {
      --queued;
      if (auto wanted = still_wanted(call); !wanted) return answer(call, std::unexpected(std::move(wanted).error()));
      guarded(call, work);
    });
    if (posted) return true;
    --queued;
    answer(call, std::unexpected(stopping()));
    return false;
  }

  // Calls `then` in the pool with the closed files of the upload, after all its parts that came before.
  template <class Then>
  void with_files(const Call& call, const UploadId& id, Then then) {
    (void)in_pool(call, id.text(), [this, id, then = std::move(then)] {
      auto upload = uploads.use(id, Clock::now());
      then(upload ? (*upload)->files() : std::unexpected(std::move(upload).error()));
    });
  }

  void commit_dataset(const Call& call, msg::CommitDataset question) {
    if (auto named = check_name("data set", question.name); !named) {
      return answer(call, std::unexpected(std::move(named).error()));
    }
    if (auto plain = check_text("actor", question.actor, kMaxActorBytes); !plain) {
      return answer(call, std::unexpected(std::move(plain).error()));
    }
    const UploadId id = question.upload;
    (void)in_pool(call, id.text(), [this, call, question = std::move(question)] {
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
      described->actor = question.actor;
      // Whoever drops the upload meanwhile: the table holds its chunks for as long as this pointer is held.
      on_writer(call, [this, call, held = *upload, id = question.upload, described = std::move(*described)] {
        index.add(described.files);
        auto stored = catalog.commit_dataset(described, now().unix_ms);
        if (stored) uploads.set_committed(id);
        if (stored && stored->created) {
          spdlog::info("data set stored name={} version={} rows={} bytes={} request={}", stored->dataset.name,
                       stored->dataset.version, stored->dataset.rows, stored->dataset.size_bytes,
                       log_value(call.request_id));
        }
        answer_as(call, std::move(stored));
      });
    });
  }

  template <class Question>
  void commit_files(const Call& call, Question question) {
    const UploadId id = question.upload;
    (void)in_pool(call, id.text(), [this, call, question = std::move(question)] {
      auto upload = uploads.use(question.upload, Clock::now());
      Result<std::vector<StoredFile>> files = upload ? (*upload)->files() : std::unexpected(upload.error());
      on_writer(call, [this, call, question, held = std::move(upload), files = std::move(files)] {
        commit(call, question, files);
      });
    });
  }

  // --- backups ---

  static Error no_backups() {
    return {.code = Code::kUnsupported,
            .message = "this registry keeps no backups: it was started without --backup-dir",
            .path = {}};
  }

  void with_backups(const Call& call, StrandPool::Work work) {
    if (!backups) return answer(call, std::unexpected(no_backups()));
    (void)in_pool(call, {}, std::move(work));
  }

  void delete_backup(const Call& call, const msg::DeleteBackup& question) {
    auto removed = backups->remove(question.id);
    if (removed) {
      spdlog::info("backup deleted id={} actor={} request={}", question.id, log_value(question.actor),
                   log_value(call.request_id));
    }
    answer_as(call, std::move(removed));
  }

  // --- the writer ---

  void on_writer(const Call& call, std::function<void()> work) {
    const bool queued = queue.push(call.rank, [this, call, work = std::move(work)] {
      if (Clock::now() < call.deadline) return guarded(call, work);
      answer(call, fail(Code::kDeadlineExceeded, "the deadline passed while the call waited"));
    });
    if (!queued) answer(call, std::unexpected(overloaded("too many calls wait")));
  }

  // What has become a checkpoint or a version is known by its mark from then on: the upload is no longer needed.
  void commit(const Call& call, const msg::CommitCheckpoint& q, Result<std::vector<StoredFile>> files) {
    auto done = jobs.commit_checkpoint(q, std::move(files), now());
    if (done) uploads.drop(q.upload);
    answer_as(call, std::move(done));
  }
  void commit(const Call& call, const msg::Publish& q, Result<std::vector<StoredFile>> files) {
    if (files) index.add(*files);
    auto version = jobs.publish(q, std::move(files), now());
    if (version) {
      uploads.drop(q.upload);
      spdlog::info("version published model={} version={} job={} request={}", version->model, version->number,
                   q.lease.job.text(), log_value(call.request_id));
    }
    answer_list<msg::Versions>(call, std::move(version));
  }
  void commit(const Call& call, const msg::CommitVersion& q, Result<std::vector<StoredFile>> files) {
    if (files) index.add(*files);
    auto version = catalog.commit_version(q, std::move(files), now().unix_ms);
    if (version) {
      uploads.drop(q.upload);
      spdlog::info("version uploaded model={} version={} request={}", version->model, version->number,
                   log_value(call.request_id));
    }
    answer_list<msg::Versions>(call, std::move(version));
  }

  // Read by any thread, beside the writer.
  void look_up(const Call& c, const msg::GetDataset& q) {
    answer_list<msg::Datasets>(c, catalog.dataset(q.name, q.version));
  }
  void look_up(const Call& c, const msg::ListDatasets& q) { answer_list<msg::Datasets>(c, catalog.list_datasets(q)); }
  void look_up(const Call& c, const msg::GetJob& q) { answer_list<msg::Jobs>(c, jobs.get(q.id)); }
  void look_up(const Call& c, const msg::ListJobs& q) { answer_list<msg::Jobs>(c, jobs.list(q)); }
  void look_up(const Call& c, const msg::ListJobEvents& q) { answer_list<msg::JobEvents>(c, jobs.events(q)); }
  void look_up(const Call& c, const msg::GetCheckpoint& q) { answer_list<msg::Checkpoints>(c, jobs.checkpoint(q.job)); }
  void look_up(const Call& c, const msg::GetVersion& q) { answer_list<msg::Versions>(c, catalog.version(q)); }
  void look_up(const Call& c, const msg::ListVersions& q) { answer_list<msg::Versions>(c, catalog.list_versions(q)); }
  void look_up(const Call& c, const msg::GetModel& q) { answer_list<msg::Models>(c, catalog.model(q.model)); }
  void look_up(const Call& c, const msg::ListModels& q) { answer_list<msg::Models>(c, catalog.list_models(q)); }
  void look_up(const Call& c, const msg::ListAliasMoves& q) {
    answer_list<msg::AliasMoves>(c, catalog.list_alias_moves(q));
  }
  void look_up(const Call& c, const msg::ListQuarantines& q) { answer_list<msg::Quarantines>(c, quarantines.list(q)); }
  void look_up(const Call& c, const msg::ListUnreadable& q) { answer(c, store->unreadable().list(q.limit)); }

  void handle(const Call& c, const msg::CreateJob& q) { answer_list<msg::Jobs>(c, jobs.create(q, now())); }
  void handle(const Call& c, const msg::CancelJob& q) { answer_list<msg::Jobs>(c, jobs.cancel(q.id, now())); }
  void handle(const Call& c, const msg::ClaimJob& q) {
    auto run = jobs.claim(q, now());
    if (run) {
      spdlog::info("job claimed job={} attempt={} worker={}", run->job.id.text(), run->job.attempt,
                   log_value(q.worker.text()));
    }
    answer_as(c, std::move(run));
  }
  void handle(const Call& c, const msg::ReportJob& q) { answer_as(c, jobs.report(q, now())); }
  void handle(const Call& c, const msg::EndAttempt& q) {
    auto ended = jobs.end_attempt(q, now());
    if (ended) {
      spdlog::info("attempt ended job={} outcome={} reason={} message={}", q.lease.job.text(),
                   static_cast<int>(q.outcome), log_value(plain_text(q.reason, 100)),
                   log_value(plain_text(q.message, 8'000)));
    }
    answer_as(c, std::move(ended));
  }
  void handle(const Call& c, const msg::MoveAlias& q) {
    auto moved = catalog.move_alias(q, now().unix_ms);
    if (moved) {
      spdlog::info("alias moved model={} alias={} to={} actor={} request={}", q.model, q.alias, q.to,
                   log_value(q.actor), log_value(c.request_id));
    }
    answer_list<msg::Models>(c, std::move(moved));
  }
  void handle(const Call& c, const msg::SetServing& q) {
    auto model = catalog.set_serving(q, now().unix_ms);
    if (model) {
      spdlog::info("model {} model={} actor={} request={}", q.served ? "loaded" : "unloaded", q.model,
                   log_value(q.actor), log_value(c.request_id));
    }
    answer_list<msg::Models>(c, std::move(model));
  }
  void handle(const Call& c, const msg::QuarantineFile& q) {
    const auto kept = quarantines.put(q.quarantine, now().unix_ms);
    if (!kept) return answer(c, std::unexpected(kept.error()));
    if (*kept) {
      spdlog::warn("file quarantined digest={} model={} version={} reason={}", to_hex(q.quarantine.digest),
                   q.quarantine.model, q.quarantine.version,
                   log_value(plain_text(q.quarantine.reason, QuarantineBook::kMaxReasonBytes)));
    }
    answer(c, msg::Ok{});
  }
  void handle(const Call& c, const msg::LiftQuarantine& q) {
    if (q.version == 0) return answer(c, fail(Code::kInvalidArgument, "a quarantine is lifted of one version"));
    if (auto plain = check_text("actor", q.actor, kMaxActorBytes); !plain) {
      return answer(c, std::unexpected(std::move(plain).error()));
    }
    auto version = catalog.version({.model = q.model, .version = q.version, .alias = {}});
    if (!version) return answer(c, std::unexpected(std::move(version).error()));
    if (auto lifted = quarantines.lift(*version); !lifted) {
      return answer(c, std::unexpected(std::move(lifted).error()));
    }
    spdlog::info("quarantine lifted model={} version={} actor={} request={}", q.model, q.version, log_value(q.actor),
                 log_value(c.request_id));
    answer_list<msg::Versions>(c, std::move(version));
  }

  // When each of the writer's chores is due.
  struct Chores {
    Clock::time_point last_round, tick, knock, housekeeping, purge, sweep, retire;
  };

  void run_writer() {
    const auto start = Clock::now();
    Chores next{start, start, start, start, start, start, start};
    for (;;) {
      auto work = queue.pop(kTickEvery);
      if (!work && queue.ended()) return;
      try {
        if (work) work();
        do_chores(next);
      } catch (const std::exception& failure) {
        failed("writer", failure);
      }
    }
  }

  static bool is_due(Clock::time_point& next, Clock::time_point time, Clock::duration every) {
    if (time < next) return false;
    next = time + every;
    return true;
  }

  void do_chores(Chores& next) {
    const auto time = Clock::now();
    if (time - next.last_round > kStandstill) jobs.extend_leases(time - next.last_round);
    next.last_round = time;
    if (is_due(next.tick, time, kTickEvery)) {
      if (auto expired = jobs.expire(now()); !expired) {
        spdlog::warn("lost jobs not taken back yet error={}", log_value(expired.error().message));
      }
      start_waiting_chunks();
      metrics.set_jobs(jobs.jobs_by_state());
      metrics.set_stored_bytes(chunks->stored_bytes());
      metrics.set_uploads(uploads.size());
      metrics.set_unreadable(store->unreadable().total());
    }
    if (is_due(next.knock, time, kKnockEvery)) {
      // Whoever missed the last event, or has just come back, sees by this that there was one.
      publish({msg::Changed{.revision = store->revision(), .subject = msg::Subject::kNothing, .key = {}}});
      // What comes of it is told to on_unreachable.
      for (const std::string& owner : uploads.owners()) {
        (void)bus.knock(calls_socket, owner);
      }
      if (const auto dropped = uploads.drop_gone(time); dropped > 0) {
        spdlog::info("uploads of lost peers dropped count={}", dropped);
      }
    }
    if (is_due(next.housekeeping, time, kHousekeepingEvery)) {
      if (const auto dropped = uploads.drop_idle(time); dropped > 0) {
        spdlog::info("idle uploads dropped count={}", dropped);
      }
      if (const auto free = free_bytes(options.data_dir)) metrics.set_free_bytes(*free);
    }
    if (is_due(next.purge, time, kPurgeEvery)) {
      const auto more = jobs.purge_marks(now());
      if (!more) {
        spdlog::warn("marks of repeats not purged yet error={}", log_value(more.error().message));
      } else if (*more) {
        next.purge = time + kPurgeMoreEvery;
      }
    }
    if (is_due(next.sweep, time, options.sweep_every) && !sweeping.exchange(true)) {
      if (!pool->post({}, [this] { sweep(); })) sweeping = false;
    }
    if (is_due(next.retire, time, options.retire_every)) retire_later();
  }

  // In the pool: reads every record that names chunks.
  void sweep() {
    const Turn turn(sweeping);
    const std::shared_lock may_delete(deleting, std::try_to_lock);
    if (!may_delete) return;  // a backup is being made: next time
    const auto older_than = std::filesystem::file_time_type::clock::now() - options.sweep_grace;
    DigestSet referenced;
    uploads.add_chunks(referenced);  // before the records: a commit in between moves chunks from here to there
    index.begin();
    DigestSet lasting;
    auto read = catalog.collect_lasting_chunks(lasting);
    if (read) {
      index.finish(lasting);
      referenced.merge(lasting);
      read = catalog.collect_checkpoint_chunks(referenced);
    }
    if (!read) {
      spdlog::error("chunk sweep given up error={}", log_value(read.error().message));
      return;
    }
    const auto deleted = chunks->sweep(referenced, older_than);
    if (deleted > 0) spdlog::info("unreferenced chunks deleted count={}", deleted);
  }

  void retire_later() {
    const auto fresh = jobs.take_retired();
    {
      const std::lock_guard lock(retired_mutex);
      if (retired.size() < kMaxRetired) retired.insert(retired.end(), fresh.begin(), fresh.end());
      if (retired.empty()) return;
    }
    if (!retiring.exchange(true) && !pool->post({}, [this] { retire(); })) retiring = false;
  }

  // In the pool: deletes chunks of checkpoints that have given way, unless something else names them: then the sweep
  // decides one day. Who puts one of them again has its upload name it first, so what an upload named before this began
  // is seen here, and what it named later was put after `older_than`.
  void retire() {
    const Turn turn(retiring);
    const std::shared_lock may_delete(deleting, std::try_to_lock);
    if (!index.ready() || !may_delete) return;
    const auto older_than = std::filesystem::file_time_type::clock::now() - options.retire_grace;
    std::vector<Digest> candidates;
    {
      const std::lock_guard lock(retired_mutex);
      candidates.swap(retired);
    }
    DigestSet uploading;
    uploads.add_chunks(uploading);
    DigestSet named;
    if (auto read = catalog.collect_checkpoint_chunks(named); !read) {
      spdlog::warn("chunks of old checkpoints left to the sweep error={}", log_value(read.error().message));
      return;
    }
    std::vector<Digest> later;
    for (const Digest& digest : candidates) {
      if (named.contains(digest) || index.may_name(digest)) continue;
      if (uploading.contains(digest) || !chunks->remove(digest, older_than)) later.push_back(digest);
    }
    const std::lock_guard lock(retired_mutex);
    retired.insert(retired.end(), later.begin(), later.end());
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
  if (auto made = make_folder(options.data_dir); !made) return std::unexpected(std::move(made).error());
  // Before anything is opened: opening writes.
  const auto format = check_format(options.data_dir);
  if (!format) return std::unexpected(format.error());
  if (auto whole = clear_up_restore(options.data_dir); !whole) return std::unexpected(std::move(whole).error());
  auto store = RocksStore::open(options.data_dir / "db", {.min_free_bytes = options.min_free_bytes});
  if (!store) return std::unexpected(std::move(store).error());
  auto chunks = ChunkStore::open(options.data_dir / "chunks", options.min_free_bytes);
  if (!chunks) return std::unexpected(std::move(chunks).error());

  if (auto settled = settle_format(options.data_dir, *format, {}); !settled)
    return std::unexpected(std::move(settled).error());

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
  state->pool =
      std::make_unique<StrandPool>(kPoolThreads, [state](const auto& fault) { state->failed("pool", fault); });
  state->readers =
      std::make_unique<StrandPool>(kReaders, [state](const auto& fault) { state->failed("reader", fault); });

  if (const auto& folder = state->options.backup_dir; !folder.empty()) {
    state->backups = std::make_unique<BackupMaker>(
        BackupMaker::Options{
            .folder = folder, .data_dir = state->options.data_dir, .min_free_bytes = state->options.min_free_bytes},
        *state->store, *state->chunks, state->deleting,
        [state](const msg::Backup& ended) { state->metrics.note_backup(ended); });
    // What there is already is of interest; a folder that cannot be read is told to who asks for backups.
    if (const auto there = state->backups->list({}); there) {
      for (const msg::Backup& backup : *there) {
        if (backup.state == msg::BackupState::kSucceeded) state->metrics.note_backup(backup);
      }
    } else {
      spdlog::error("backups cannot be read folder={} message={}", log_value(folder.string()),
                    log_value(there.error().message));
    }
  }

  auto calls = bus.bind_router(
      state->options.calls_address,
      [gate = state->gate](Incoming incoming) {
        const std::lock_guard lock(gate->mutex);
        if (gate->state != nullptr) gate->state->on_call(std::move(incoming));
      },
      [gate = state->gate](const std::string& peer) {
        const std::lock_guard lock(gate->mutex);
        if (gate->state != nullptr) gate->state->uploads.on_unreachable(peer, Clock::now());
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
  state_->readers->stop();
  if (state_->backups) state_->backups->stop();
  state_->start_waiting_chunks();  // which answers them all
  state_->queue.close();
  state_->writer.join();
}

}  // namespace slipway::registry

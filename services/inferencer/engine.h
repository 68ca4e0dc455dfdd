// Queues requests per version, and runs them in batches on its compute threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/wire/bus.h"
#include "services/inferencer/batcher.h"
#include "services/inferencer/loaded_version.h"
#include "services/inferencer/signature_check.h"
#include "services/inferencer/watchdog.h"

namespace slipway::inferencer {

// Who asked: where the answer goes, and what a cancellation names.
struct Asker {
  SocketId socket{};
  std::string peer;
  std::uint64_t correlation = 0;
  bool operator==(const Asker&) const = default;
};

struct Answer {
  std::vector<TensorSpec> outputs;
  std::vector<Frame> payload;
  std::int64_t batch_rows = 0;  // of the largest batch that a part of it ran in
  std::chrono::microseconds queued{0};
  std::chrono::microseconds computed{0};
};

// Life: stop() (or destruction) lets the batches that run finish, fails what waits with kUnavailable and joins the
// threads. Threads: everything may be called from any thread; `Done` is called on a compute thread or on the one that
// calls in, never under the engine's lock.
class Engine {
 public:
  struct Options {
    int instances = 1;  // compute threads
    BatchLimits limits;
    std::size_t max_queued_bytes = 1 << 30;  // inputs waiting, over all versions
    // Requests that may be here, over all versions. While several versions are loaded, none may have more of them (and
    // of the bytes) than are left: one alone gets half, and there is always room for another.
    std::size_t max_requests = 1024;
    // A version whose batches take this long leaves one instance to the others.
    std::chrono::milliseconds slow_batch{1000};
    // A batch that runs this long after its begin and its latest deadline is stuck, as `watchdog` then says.
    std::chrono::milliseconds stuck_after{30'000};
    Watchdog* watchdog = nullptr;   // must outlive the engine
    std::filesystem::path marks{};  // folder for the mark of an uploaded file's first run; empty: none is left
  };
  using TimePoint = Batcher::TimePoint;
  using Done = std::function<void(Result<Answer>)>;

  explicit Engine(const Options& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // From now on `version` takes requests. One of the same key that is still here stays in its place.
  void add(std::shared_ptr<const LoadedVersion> version);

  // Takes `key` out unless requests wait or run; true: it is gone (or was not there). `gone` gets what was held, which
  // may take long to free.
  bool remove_if_idle(const msg::VersionKey& key, std::shared_ptr<const LoadedVersion>* gone = nullptr);

  // The version, when it takes requests.
  [[nodiscard]] std::shared_ptr<const LoadedVersion> find(const msg::VersionKey& key) const;

  // Queues a request; `done` is called once with its answer, unless it is cancelled. More rows than a batch holds are
  // run in several batches and joined. `alone`: never in a batch with others. Errors, in the answer: kNotFound (version
  // not added), kTooLarge (more rows than the queue holds; a joined answer over the model's limits), kOverloaded (queue
  // full, or the version has its share of it), kDeadlineExceeded, and TorchModel::run's.
  void submit(const msg::VersionKey& key, CheckedInputs inputs, Asker asker, std::optional<TimePoint> deadline,
              Done done, bool alone = false);

  // Requests of `key` that wait get `error` now, and later ones at once, until it is added again. Batches that run end
  // as usual.
  void fail_waiting(const msg::VersionKey& key, const Error& error);

  // Forgets the asker's request if it still waits; one that runs answers as usual.
  void cancel(const Asker& asker);

  // Fails what is late. Compute threads do so too before each batch; this is for when all of them are busy.
  void expire(TimePoint now);

  // The process is about to end because of `key`: its requests get `guilty` (nullopt: nothing yet), all others `lost`.
  void abandon(const msg::VersionKey& key, const std::optional<Error>& guilty, const Error& lost);

  // Another limit of the inputs waiting: what waits already stays.
  void set_max_queued_bytes(std::size_t bytes);

  // Requests that wait or run, the parts of a large one counted each.
  [[nodiscard]] std::size_t outstanding() const;

  // When the latest batch ended; nullopt: something waits or runs, or nothing ever did.
  [[nodiscard]] std::optional<TimePoint> idle_since() const;

  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace slipway::inferencer

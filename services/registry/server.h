// The registry as its callers see it: messages in, calls on uploads, catalog and jobs, answers and events out.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "lib/wire/bus.h"
#include "services/registry/job_book.h"
#include "services/registry/upload_table.h"

namespace slipway::registry {

struct ServerOptions {
  std::filesystem::path data_dir;
  std::filesystem::path backup_dir;  // where backups are kept; empty: none are made
  std::string calls_address;         // "host:port"; port 0: any free one
  std::string events_address;
  std::string cluster_secret;  // that every call must show; empty: none is asked for
  std::uint64_t min_free_bytes = 256ULL << 20;
  UploadLimits uploads;
  JobLimits jobs;
  std::size_t max_queued_calls =
      10'000;  // each: to the pool, to the readers, under a lease to the writer, others to the writer
  // Parts that have come and are not yet hashed and stored; beyond it each upload may have one.
  std::size_t max_queued_upload_bytes = 96 << 20;
  // Chunks on their way out, in all and to one peer; what is asked for beyond that waits. The bus drops what waits for
  // a peer beyond 64 MiB.
  std::size_t max_answer_bytes = 256 << 20;
  std::size_t max_answer_bytes_per_peer = 48 << 20;
  std::chrono::milliseconds sweep_every{600'000};
  std::chrono::milliseconds sweep_grace{3'600'000};  // age of an unreferenced chunk before it is deleted
  std::chrono::milliseconds retire_every{1'000};     // chunks of checkpoints that have given way
  std::chrono::milliseconds retire_grace{2'000};     // age of such a chunk before it is deleted
};

// Threads: the bus thread takes calls and queues them; one writer owns catalog and jobs; two readers answer questions
// about records; a small pool hashes, unpacks, reads and writes chunks, in order within an upload; a backup has a
// thread of its own. Whatever throws on one of them is answered with kInternal and counted. Life: must not outlive the
// bus.
class Server {
 public:
  // Errors: kInvalidArgument (an address), kUnavailable (a port or the data folder is taken), kDataLoss (damaged).
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(Bus& bus, ServerOptions options);
  ~Server();

  [[nodiscard]] int calls_port() const;
  [[nodiscard]] int events_port() const;

  // Why it is not ready; empty: it is. Any thread.
  [[nodiscard]] std::string not_ready() const;

  // Refuses new calls with kUnavailable, and so those that still wait for the pool; finishes the others, ends the
  // threads. Idempotent.
  void stop();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace slipway::registry

// The gateway's side of the bus: the ROUTER that workers dial, the registry's events, and the state machines they feed.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/wire/caller.h"
#include "services/gateway/event_hub.h"
#include "services/gateway/inference_router.h"
#include "services/gateway/load_rounds.h"
#include "services/gateway/registry_cache.h"
#include "services/gateway/settings.h"

namespace slipway::gateway {

// Life: must not outlive the bus, the caller, the cache and the hub. Threads: any; answers come on the bus thread.
class WorkerHub {
 public:
  using Answer = std::function<void(Result<Message>)>;

  // A worker of another release, or that does not show `secret` (when there is one), is refused.
  WorkerHub(Bus& bus, Caller& registry, RegistryCache& cache, EventHub& events, const Settings& settings,
            std::string release, std::string secret = {});
  ~WorkerHub();
  WorkerHub(const WorkerHub&) = delete;
  WorkerHub& operator=(const WorkerHub&) = delete;

  // Binds the ROUTER. Errors: as Bus::bind_router.
  [[nodiscard]] Result<void> start(const std::string& address);

  // Follows the registry's events. Errors: as Bus::connect_subscriber.
  [[nodiscard]] Result<void> subscribe(const std::string& events);
  [[nodiscard]] int port() const;

  // A question to an inferencer: Infer, or Inspect. `answer` is called exactly once, with
  // kUnavailable after cancel(). `loaded`: the version that the inferencer had better have in memory.
  struct Question {
    msg::Body body;
    std::vector<Frame> payload;
    std::optional<msg::VersionKey> loaded;
    bool uploaded = false;  // `loaded` was made elsewhere
    std::int64_t rows = 1;
    std::chrono::steady_clock::time_point deadline;
    std::string request_id;
  };
  RequestId ask(Question question, Answer answer);
  void cancel(RequestId id);

  // Asks every inferencer that is connected and does not drain to load `versions`. `done` is called exactly once, when
  // each has answered, was lost, or `deadline` has passed.
  using Loaded = std::function<void(std::vector<LoadRounds::Outcome>)>;
  void load(std::vector<msg::VersionKey> versions, std::chrono::steady_clock::time_point deadline,
            std::string request_id, Loaded done);

  // What the inferencers that do not drain have in memory, as they last said.
  struct Fleet {
    std::size_t inferencers = 0;
    std::map<msg::VersionKey, std::size_t> loaded;  // by how many
  };
  void look(std::function<void(Fleet)> done) const;

  // Offers no more jobs to trainers.
  void stop_offers();

  // Answers every open question, and every later one, with kUnavailable; returns once that has happened, and with it
  // everything that was posted to the bus before. Idempotent; not on the bus thread.
  void close();

  // How many inferencers take predictions: connected, not draining, with credit for this gateway.
  [[nodiscard]] int inferencers() const;
  [[nodiscard]] int trainers() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  int port_ = 0;
};

}  // namespace slipway::gateway

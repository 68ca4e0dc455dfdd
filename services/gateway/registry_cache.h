// What the gateway remembers of the registry: versions, which never change, and models' heads and aliases, which do.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "services/gateway/registry_client.h"

namespace slipway::gateway {

// Which version of a model: its latest, one by number, or where an alias points.
struct Latest {};
struct AliasName {
  std::string name;
};
using VersionChoice = std::variant<Latest, std::uint64_t, AliasName>;

using VersionRef = std::shared_ptr<const Version>;
using ModelRef = std::shared_ptr<const Model>;

// A head is fresh for `kFresh`; an older one is served while the registry is asked for a newer one, once at a time.
// When a Changed event names it or events are found missing, requests wait for the newer one, but at most `kStaleWait`:
// when the registry does not answer, the last known head goes on being served. Threads: any; the lock is never held
// over a wait.
class RegistryCache {
 public:
  static constexpr std::chrono::milliseconds kFresh{2000};
  static constexpr std::chrono::milliseconds kStaleWait{300};

  explicit RegistryCache(RegistryClient& registry, std::chrono::milliseconds fresh = kFresh);

  // Errors: kNotFound (model, version or alias), kUnavailable.
  Task<Result<VersionRef>> resolve(std::string model, VersionChoice choice, std::string request_id);
  Task<Result<ModelRef>> model(std::string name, std::string request_id);
  Task<Result<VersionRef>> version(std::string model, std::uint64_t number, std::string request_id);

  // The names of all models, sorted.
  Task<Result<std::shared_ptr<const std::vector<std::string>>>> model_names(std::string request_id);

  // An event came. Revisions are dense: a gap means that others were missed.
  void on_changed(const msg::Changed& changed);

  // `model` has changed, as an answer of the registry shows.
  void forget(const std::string& model);

  // `model` has a version `number`: a head that does not know it is dropped.
  void note_version(const std::string& model, std::uint64_t number);

 private:
  using Clock = std::chrono::steady_clock;
  struct Refresh;
  struct Heads;
  struct Names {
    std::shared_ptr<const std::vector<std::string>> names;
    Clock::time_point fetched{};
  };
  static constexpr std::size_t kMostVersions = 10'000;

  void ask(const std::string& name, std::shared_ptr<Refresh> refresh, std::string request_id);

  RegistryClient& registry_;
  const std::chrono::milliseconds fresh_;
  const std::shared_ptr<Heads> heads_;  // shared with answers under way
  std::mutex mutex_;
  std::map<std::pair<std::string, std::uint64_t>, VersionRef> versions_;
  std::optional<Names> names_;
  std::uint64_t revision_ = 0;
};

}  // namespace slipway::gateway

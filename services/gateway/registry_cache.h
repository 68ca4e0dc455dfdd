// What the gateway remembers of the registry: versions, which never change but for a quarantine, and models' heads and
// aliases, which do.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
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
using NamesRef = std::shared_ptr<const std::vector<std::string>>;

inline constexpr std::string_view kUnknownModel = "Request for unknown model: ";  // Triton's words

// A head is fresh for `kFresh`; an older one is served while the registry is asked for a newer one, once at a time.
// When a Changed event names it or events are found missing, requests wait for the newer one, but at most `kStaleWait`
// from when it was asked for: when the registry does not answer, the last known head goes on being served, and so does
// the version it named when the newer one is not known yet. What there is not is remembered for `kUnknownFor`. The most
// recently used `kMost` of each kind are kept. Threads: any; no lock is held over a wait.
class RegistryCache {
 public:
  static constexpr std::chrono::milliseconds kFresh{2000};
  static constexpr std::chrono::milliseconds kStaleWait{300};
  static constexpr std::chrono::milliseconds kUnknownFor{1000};
  static constexpr std::size_t kMost = 10'000;
  static constexpr std::size_t kMostAsked = 1000;  // questions open at once, of each kind

  explicit RegistryCache(RegistryClient& registry, std::chrono::milliseconds fresh = kFresh, std::size_t most = kMost);
  ~RegistryCache();
  RegistryCache(const RegistryCache&) = delete;
  RegistryCache& operator=(const RegistryCache&) = delete;

  // The version to predict with. Errors: kNotFound (model, version or alias; a model that is unloaded), kUnavailable
  // (the registry does not answer, and did not before; one version of a model that is unloaded), kOverloaded
  // (kMostAsked). Of what is unloaded the message begins with kUnknownModel.
  Task<Result<VersionRef>> resolve(std::string model, VersionChoice choice, std::string request_id);
  // The same, served or not.
  Task<Result<VersionRef>> find(std::string model, VersionChoice choice, std::string request_id);
  Task<Result<ModelRef>> model(std::string name, std::string request_id);
  Task<Result<VersionRef>> version(std::string model, std::uint64_t number, std::string request_id);

  // The names of all models, sorted.
  Task<Result<NamesRef>> model_names(std::string request_id);

  // The names of the first two models: whether there is only one.
  Task<Result<NamesRef>> first_names(std::string request_id);

  // Asks for every model and for the versions that its name and its aliases stand for, as many as are kept, so that
  // they are known when the registry goes away. How many versions. Errors: kUnavailable (the registry does not answer).
  Task<Result<std::size_t>> read_all(std::string request_id);

  // An event came. Revisions are dense: a gap means that others were missed.
  void on_changed(const msg::Changed& changed);

  // `model` has changed, as an answer of the registry shows.
  void forget(const std::string& model);

  // `model` has a version `number`: a head that does not know it is dropped.
  void note_version(const std::string& model, std::uint64_t number);

 private:
  using Clock = std::chrono::steady_clock;
  struct Memory;
  struct Names {
    NamesRef names;
    Clock::time_point fetched{};
  };

  Task<Result<VersionRef>> choose(std::string name, VersionChoice choice, std::string request_id, bool served);

  RegistryClient& registry_;
  const std::chrono::milliseconds fresh_;
  const std::size_t most_;
  const std::unique_ptr<Memory> memory_;
  std::mutex mutex_;  // guards the two below
  std::optional<Names> names_;
  std::uint64_t revision_ = 0;
};

}  // namespace slipway::gateway

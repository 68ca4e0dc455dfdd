#include "services/inferencer/version_store.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <format>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/sha256.h"
#include "lib/torch_runtime/memory.h"
#include "lib/wire/file_cache.h"
#include "lib/wire/page.h"
#include "schema/desired.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/crash_guard.h"
#include "services/inferencer/metrics.h"
#include "services/inferencer/quarantine.h"
#include "services/inferencer/warm_up.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kPage = 100;
constexpr auto kListDeadline = std::chrono::seconds(2);  // it is tried again anyway
constexpr auto kListRetry = std::chrono::seconds(1);
constexpr auto kWeighEvery = std::chrono::seconds(1);
constexpr auto kRestAfter = std::chrono::seconds(5);

// `deadline` also bounds how long stop() may have to wait.
Caller::Options reading(std::chrono::seconds deadline = std::chrono::seconds(5)) {
  return {.deadline = deadline, .repeat_after = std::chrono::seconds(1), .request_id = {}};
}

}  // namespace

struct VersionStore::State {
  State(Caller& caller, Engine& runner, QuarantineList& refused_files, Options given, Events callbacks)
      : registry(caller),
        engine(runner),
        quarantines(refused_files),
        options(std::move(given)),
        events(std::move(callbacks)),
        cache(options.cache_dir, options.cache_bytes),
        table(options.limits),
        model_limits(options.model_limits) {}

  Caller& registry;
  Engine& engine;
  QuarantineList& quarantines;
  const Options options;
  const Events events;
  const FileCache cache;

  mutable std::mutex mutex;  // guards all below
  std::condition_variable wake;
  VersionTable table;
  ModelLimits model_limits;  // of what is loaded next
  RevisionWatch revisions;
  std::set<std::string> changed_models;
  bool quarantines_changed = false;
  bool history_unsure = false;  // events were missed
  Clock::time_point list_at{};  // now
  bool listed = false;
  bool news = false;  // something came while the thread may have been looking elsewhere
  bool stopping = false;

  // The store's thread only: versions whose files are quarantined, and those of them that still run.
  std::map<msg::VersionKey, Digest> quarantined;
  std::set<msg::VersionKey> leaving;
  // The thread's own.
  std::map<msg::VersionKey, std::shared_ptr<const LoadedVersion>> keepers;  // of what is loaded, what keeps state
  std::optional<Clock::time_point> rested;                                  // the engine's idle_since() of then

  std::thread thread;

  Result<bool> ask(const msg::VersionKey& key, bool anew);
  void run();
  Result<void> read_quarantines();
  Result<void> list_models();
  Result<void> compare_loaded();
  Result<void> read_model(const std::string& name);
  Result<std::shared_ptr<const LoadedVersion>> load(const msg::VersionKey& key);
  void load_one(const msg::VersionKey& key);
  void show_loaded() const;
  void weigh_keepers();
  void rest();
  void unload_some();
};

VersionStore::VersionStore(Caller& registry, Engine& engine, QuarantineList& quarantines, Options options,
                           Events events)
    : state_(std::make_unique<State>(registry, engine, quarantines, std::move(options), std::move(events))) {
  state_->thread = std::thread([this] { state_->run(); });
}

VersionStore::~VersionStore() { stop(); }

namespace {

Error refusal(const msg::VersionKey& key, const std::string& reason) {
  return {.code = Code::kInvalidArgument,
          .message = std::format("version {} of model '{}' is quarantined: {}", key.version, key.model, reason),
          .path = {}};
}

// The thread goes on after an exception.
template <class Work>
Result<void> attempt(Work work) {
  bool returned = false;
  auto done = caught("the store of versions failed", Code::kInternal, [&] {
    auto result = work();
    returned = true;
    return result;
  });
  if (!returned) spdlog::error("store failed message={}", log_value(done.error().message));
  return done;
}

}  // namespace

// What is loaded and quarantined now goes at once; what is free again is loaded when it is wanted.
Result<void> VersionStore::State::read_quarantines() {
  if (auto done = quarantines.refresh(); !done) return done;
  std::vector<msg::VersionKey> ready;
  {
    const std::lock_guard lock(mutex);
    ready = table.ready();
    std::erase_if(quarantined, [&](const auto& item) {
      if (quarantines.reason(item.second)) return false;
      // Without waiting for its next try.
      if (!leaving.contains(item.first) && !std::ranges::binary_search(ready, item.first)) table.unloaded(item.first);
      return true;
    });
  }
  for (const msg::VersionKey& key : ready) {
    const auto version = engine.find(key);
    const auto reason = version ? quarantines.reason(version->digest) : std::nullopt;
    if (!reason) continue;
    spdlog::warn("version quarantined model={} version={} digest={} reason={}", log_value(key.model), key.version,
                 to_hex(version->digest), log_value(*reason));
    quarantined.insert_or_assign(key, version->digest);
    leaving.insert(key);
    engine.fail_waiting(key, refusal(key, *reason));
    {
      const std::lock_guard lock(mutex);
      table.failed(key, refusal(key, *reason), Clock::now());
    }
    events.on_failed(key, refusal(key, *reason));
  }
  return {};
}

Result<void> VersionStore::State::list_models() {
  std::set<std::string> names;
  std::string after;
  while (true) {
    auto page = Caller::as<msg::Models>(
        registry.call_and_wait(msg::ListModels{.after = after, .limit = kPage}, {}, reading(kListDeadline)));
    if (!page) return std::unexpected(std::move(page).error());
    const std::lock_guard lock(mutex);
    for (const Model& model : page->items) {
      names.insert(model.name);
      table.set_desired(model.name, desired_numbers(model), Clock::now());
    }
    if (page->items.empty() || !may_have_next(page->items, kPage) || stopping) {
      table.keep_only(names, Clock::now());
      return {};
    }
    after = page->items.back().name;
  }
}

// A registry that was restored from a backup gives numbers anew that it had given before: what is loaded under one of
// them may be another file.
Result<void> VersionStore::State::compare_loaded() {
  for (const msg::VersionKey& key : [this] {
         const std::lock_guard lock(mutex);
         return table.ready();
       }()) {
    const auto here = engine.find(key);
    if (!here) continue;
    const auto versions = Caller::as<msg::Versions>(registry.call_and_wait(
        msg::GetVersion{.model = key.model, .version = key.version, .alias = {}}, {}, reading(kListDeadline)));
    if (!versions && versions.error().code != Code::kNotFound) {
      if (versions.error().code == Code::kDataLoss) continue;  // its record; the others can be compared
      return std::unexpected(versions.error());
    }
    if (versions && versions->items.size() == 1 &&
        std::ranges::contains(versions->items[0].files, here->digest, &StoredFile::digest))
      continue;
    spdlog::warn("version is not the registry's any more model={} version={} digest={}", log_value(key.model),
                 key.version, to_hex(here->digest));
    const std::lock_guard lock(mutex);
    table.give_up(key);
  }
  return {};
}

Result<void> VersionStore::State::read_model(const std::string& name) {
  auto models =
      Caller::as<msg::Models>(registry.call_and_wait(msg::GetModel{.model = name}, {}, reading(kListDeadline)));
  const bool gone = !models && models.error().code == Code::kNotFound;
  if (!models && !gone) return std::unexpected(std::move(models).error());
  const std::lock_guard lock(mutex);
  const bool empty = gone || models->items.empty();
  table.set_desired(name, empty ? std::set<std::uint64_t>{} : desired_numbers(models->items[0]), Clock::now());
  return {};
}

Result<std::shared_ptr<const LoadedVersion>> VersionStore::State::load(const msg::VersionKey& key) {
  auto versions = Caller::as<msg::Versions>(
      registry.call_and_wait(msg::GetVersion{.model = key.model, .version = key.version, .alias = {}}, {}, reading()));
  if (!versions) return std::unexpected(std::move(versions).error());
  if (versions->items.size() != 1)
    return fail(Code::kInternal,
                std::format("the registry answered with {} versions instead of one", versions->items.size()));
  Version& version = versions->items[0];
  const auto is_module = [](const StoredFile& file) { return file.name.ends_with(".pt"); };
  const auto file = std::ranges::find_if(version.files, is_module);
  if (file == version.files.end()) {
    return fail(Code::kUnsupported,
                std::format("version {} of model '{}' has no TorchScript file (*.pt)", key.version, key.model));
  }
  auto reason = quarantines.reason(file->digest);
  if (!reason && !version.quarantined.empty()) reason = version.quarantined;
  if (reason) {
    quarantined.insert_or_assign(key, file->digest);
    return std::unexpected(refusal(key, *reason));
  }
  // Lifted before its last batch came to its end: it stays.
  if (leaving.erase(key) > 0) {
    if (auto here = engine.find(key)) return here;
  }
  const ModelLimits limits = [this] {
    const std::lock_guard lock(mutex);
    return model_limits;
  }();
  if (file->size_bytes > static_cast<std::uint64_t>(limits.load_bytes)) {
    return fail(Code::kTooLarge, std::format("version {} of model '{}' has a file of {} bytes, and models may take {} "
                                             "bytes here (--max-model-memory-bytes)",
                                             key.version, key.model, file->size_bytes, limits.load_bytes));
  }
  auto cached = cache.get(registry, *file);
  if (!cached) return std::unexpected(std::move(cached).error());
  // From here on its code runs.
  std::optional<Trying> trying;
  if (version.uploaded) trying.emplace(options.cache_dir, key, file->digest, Trying::Stage::kLoad);
  const CrashGuard::Scope running(key, file->digest, version.uploaded);
  const auto guard = Watchdog::watch(
      options.watchdog,
      {.key = key, .digest = file->digest, .uploaded = version.uploaded, .until = Clock::now() + options.stuck_after});
  auto model = TorchModel::load(cached->path(), version.uploaded ? Origin::kUploaded : Origin::kTrained,
                                version.signature, limits);
  if (!model) return std::unexpected(std::move(model).error());

  if (auto warm = warm_up(**model, version.signature, options.max_batch_rows); !warm)
    return std::unexpected(std::move(warm).error());
  return std::make_shared<const LoadedVersion>(LoadedVersion{.key = key,
                                                             .signature = std::move(version.signature),
                                                             .model = std::move(*model),
                                                             .digest = file->digest,
                                                             .uploaded = version.uploaded,
                                                             .file = std::move(*cached)});
}

void VersionStore::State::load_one(const msg::VersionKey& key) {
  const auto begun = Clock::now();
  auto version = caught("loading it failed", Code::kInternal, [&] { return load(key); });
  const auto took = Clock::now() - begun;
  if (!version) {
    const Error error = std::move(version).error();
    spdlog::warn("version failed model={} version={} code={} message={}", log_value(key.model), key.version,
                 code_name(error.code), log_value(error.message));
    metrics().loads.Add({{"result", "failed"}}).Increment();
    {
      const std::lock_guard lock(mutex);
      table.failed(key, error, Clock::now());
    }
    events.on_failed(key, error);
    return;
  }
  quarantined.erase(key);
  const std::int64_t bytes = (*version)->model->loaded_bytes();
  if ((*version)->model->keeps_state()) keepers.insert_or_assign(key, *version);
  engine.add(std::move(*version));
  {
    const std::lock_guard lock(mutex);
    table.loaded(key, bytes, Clock::now());
    show_loaded();
  }
  metrics().loads.Add({{"result", "ok"}}).Increment();
  metrics().load_time.Observe(std::chrono::duration<double>(took).count());
  spdlog::info("version ready model={} version={} load_ms={}", log_value(key.model), key.version,
               std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
  events.on_ready(key);
}

void VersionStore::State::show_loaded() const {
  metrics().loaded.Set(static_cast<double>(table.ready_count()));
  metrics().model_bytes.Set(static_cast<double>(table.ready_bytes()));
}

// What a version keeps between its runs is memory like what it was loaded with. One that has used up what a run may
// take is loaded afresh, and so begins anew.
void VersionStore::State::weigh_keepers() {
  for (const auto& [key, version] : keepers) {
    const TorchModel& model = *version->model;
    const std::lock_guard lock(mutex);
    table.set_bytes(key, model.loaded_bytes() + model.further_bytes());
    if (!model.is_spent() || leaving.contains(key)) continue;
    spdlog::warn("version keeps too much model={} version={} bytes={}", log_value(key.model), key.version,
                 model.further_bytes());
    table.give_up(key);
  }
}

// After a burst of large batches malloc holds what they took; when nothing has run for a while it is given back.
void VersionStore::State::rest() {
  const auto idle = engine.idle_since();
  if (!idle || idle == rested || Clock::now() - *idle < kRestAfter) return;
  rested = idle;
  give_memory_back();
}

void VersionStore::State::unload_some() {
  std::erase_if(leaving, [this](const msg::VersionKey& key) {
    if (!engine.remove_if_idle(key)) return false;
    keepers.erase(key);
    return true;
  });
  std::vector<msg::VersionKey> candidates;
  {
    const std::lock_guard lock(mutex);
    candidates = table.to_unload(Clock::now());
  }
  for (const msg::VersionKey& key : candidates) {
    std::shared_ptr<const LoadedVersion> gone;  // freed without the lock
    {
      // Under the lock, so that nobody hears "ready" from ask() about a version that has just gone.
      const std::lock_guard lock(mutex);
      // Somebody may have asked for it, or desired it, since it was chosen, and others may have made room.
      if (!table.may_unload(key, Clock::now())) continue;
      if (!engine.remove_if_idle(key, &gone)) continue;
      table.unloaded(key);
      show_loaded();
    }
    keepers.erase(key);
    gone.reset();
    spdlog::info("version unloaded model={} version={}", log_value(key.model), key.version);
    events.on_ready(key);  // what is loaded has changed
  }
}

void VersionStore::State::run() {
  std::unique_lock lock(mutex);
  bool warned = false;
  while (!stopping) {
    const auto now = Clock::now();
    if (now >= list_at) {
      list_at = now + options.list_every;
      changed_models.clear();
      quarantines_changed = false;
      const bool compare = std::exchange(history_unsure, false);
      lock.unlock();
      // First, so that nothing is loaded that must not be.
      const auto done = attempt([&] {
        return read_quarantines().and_then([this] { return list_models(); }).and_then([&] {
          return compare ? compare_loaded() : Result<void>();
        });
      });
      lock.lock();
      if (!done) {
        history_unsure |= compare;
        if (!warned)
          spdlog::warn("registry not readable code={} message={}", code_name(done.error().code),
                       log_value(done.error().message));
        list_at = Clock::now() + kListRetry;
      } else {
        listed = true;
      }
      warned = !done;
      continue;
    }
    if (quarantines_changed) {
      quarantines_changed = false;
      lock.unlock();
      const auto done = attempt([this] {
        auto read = read_quarantines();
        unload_some();
        return read;
      });
      lock.lock();
      if (!done) list_at = Clock::now() + kListRetry;
      continue;
    }
    if (!changed_models.empty()) {
      const std::string name = changed_models.extract(changed_models.begin()).value();
      lock.unlock();
      const auto done = attempt([&] { return read_model(name); });
      lock.lock();
      if (!done) list_at = Clock::now() + kListRetry;
      continue;
    }
    if (const auto key = table.next_load(now)) {
      lock.unlock();
      static_cast<void>(attempt([&]() -> Result<void> {
        load_one(*key);
        unload_some();
        return {};
      }));
      lock.lock();
      continue;
    }
    lock.unlock();
    static_cast<void>(attempt([this]() -> Result<void> {
      weigh_keepers();
      unload_some();
      rest();
      return {};
    }));
    lock.lock();
    // A version that is due to go may be busy: look again soon, but not at once.
    auto until = std::min(list_at, Clock::now() + (keepers.empty() ? kRestAfter : kWeighEvery));
    if (!leaving.empty()) until = std::min(until, Clock::now() + std::chrono::milliseconds(100));
    if (const auto next = table.next_wake())
      until = std::min(until, std::max(*next, Clock::now() + std::chrono::milliseconds(100)));
    wake.wait_until(lock, until, [this] { return stopping || news; });
    news = false;
  }
}

Result<bool> VersionStore::State::ask(const msg::VersionKey& key, bool anew) {
  const std::lock_guard lock(mutex);
  auto standing = table.ask(key, Clock::now());
  if (!standing && anew) {
    table.unloaded(key);
    standing = table.ask(key, Clock::now());
  }
  if (standing && !*standing) {
    news = true;
    wake.notify_one();
  }
  return standing;
}

Result<bool> VersionStore::ask(const msg::VersionKey& key) { return state_->ask(key, false); }
Result<bool> VersionStore::ask_anew(const msg::VersionKey& key) { return state_->ask(key, true); }

void VersionStore::on_changed(const msg::Changed& changed) {
  const std::lock_guard lock(state_->mutex);
  if (state_->revisions.missed(changed.revision)) {
    state_->list_at = Clock::now();
    state_->history_unsure = true;
  } else if (changed.subject == msg::Subject::kModel) {
    state_->changed_models.insert(changed.key);
  } else if (changed.subject == msg::Subject::kQuarantine) {
    state_->quarantines_changed = true;
  } else {
    return;
  }
  state_->news = true;
  state_->wake.notify_one();
}

void VersionStore::set_memory(std::int64_t model_bytes, std::int64_t run_bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->table.set_max_bytes(model_bytes);
  state_->model_limits.load_bytes = model_bytes;
  state_->model_limits.run_bytes = run_bytes;
  state_->news = true;
  state_->wake.notify_one();
}

std::vector<msg::VersionKey> VersionStore::ready() const {
  const std::lock_guard lock(state_->mutex);
  return state_->table.ready();
}

bool VersionStore::settled() const {
  const std::lock_guard lock(state_->mutex);
  return state_->listed && state_->table.settled();
}

void VersionStore::stop() {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->stopping) return;
    state_->stopping = true;
  }
  state_->wake.notify_one();
  state_->thread.join();
}

}  // namespace slipway::inferencer

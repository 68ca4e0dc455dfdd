#include "services/gateway/registry_cache.h"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>

#include "lib/wire/page.h"

namespace slipway::gateway {
namespace {

using Timer =
    asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;

constexpr std::size_t kMostHeads = 10'000;

}  // namespace

// One question for a model's head, and the requests that wait for its answer. Guarded by Heads::mutex.
struct RegistryCache::Refresh {
  Clock::time_point asked = Clock::now();
  bool outdated = false;  // the model has changed since it was asked
  std::optional<Result<ModelRef>> result;
  std::vector<std::pair<Executor, std::shared_ptr<Timer>>> waiting;
};

struct RegistryCache::Heads {
  struct Head {
    ModelRef model;
    Clock::time_point fetched{};
    bool stale = false;
  };
  std::mutex mutex;
  std::map<std::string, Head, std::less<>> known;
  std::map<std::string, std::shared_ptr<Refresh>, std::less<>> asked;

  // Under the lock. An answer under way may not know the change: the next request asks again.
  void invalidate(const std::string& name) {
    if (const auto found = known.find(name); found != known.end()) found->second.stale = true;
    if (const auto found = asked.find(name); found != asked.end()) {
      found->second->outdated = true;
      asked.erase(found);
    }
  }
  void invalidate_all() {
    for (auto& [name, head] : known) head.stale = true;
    for (auto& [name, refresh] : asked) refresh->outdated = true;
    asked.clear();
  }

  void on_answer(const std::string& name, Refresh& refresh, Result<msg::Models> answer) {
    const std::lock_guard lock(mutex);
    if (const auto found = asked.find(name); found != asked.end() && found->second.get() == &refresh)
      asked.erase(found);
    const auto last = known.find(name);
    if (answer && answer->items.size() == 1) {
      auto model = std::make_shared<const Model>(std::move(answer->items.front()));
      // After a change, what is known may be newer than this.
      if (!refresh.outdated || last == known.end()) {
        if (known.size() >= kMostHeads) known.clear();
        known[name] = {.model = model, .fetched = Clock::now(), .stale = refresh.outdated};
      }
      refresh.result = std::move(model);
    } else if (answer) {
      refresh.result = fail(Code::kInternal, "the registry answered a model with none");
    } else if (answer.error().code == Code::kNotFound) {
      if (last != known.end() && !refresh.outdated) known.erase(last);
      refresh.result = std::unexpected(answer.error());
    } else if (last != known.end()) {
      // Serving goes on without the registry, with what was last known.
      if (!refresh.outdated) last->second.stale = false;
      last->second.fetched = Clock::now();
      refresh.result = last->second.model;
    } else {
      Error error = answer.error();
      if (error.code == Code::kDeadlineExceeded) {
        error = {.code = Code::kUnavailable, .message = "the registry does not answer", .path = {}};
      }
      refresh.result = std::unexpected(std::move(error));
    }
    for (auto& [executor, timer] : refresh.waiting) asio::post(executor, [timer] { timer->cancel(); });
    refresh.waiting.clear();
  }
};

Task<Result<VersionRef>> RegistryCache::resolve(std::string name, VersionChoice choice, std::string request_id) {
  if (const auto* number = std::get_if<std::uint64_t>(&choice)) {
    co_return co_await version(std::move(name), *number, std::move(request_id));
  }
  auto head = co_await model(name, request_id);
  if (!head) co_return std::unexpected(head.error());
  std::uint64_t number = (*head)->latest;
  if (const auto* alias = std::get_if<AliasName>(&choice)) {
    const auto found = std::ranges::find((*head)->aliases, alias->name, &Alias::name);
    if (found == (*head)->aliases.end()) {
      co_return fail(Code::kNotFound, std::format("model '{}' has no alias '{}'", name, alias->name));
    }
    number = found->version;
  }
  if (number == 0) co_return fail(Code::kNotFound, std::format("model '{}' has no version yet", name));
  co_return co_await version(std::move(name), number, std::move(request_id));
}

RegistryCache::RegistryCache(RegistryClient& registry, std::chrono::milliseconds fresh)
    : registry_(registry), fresh_(fresh), heads_(std::make_shared<Heads>()) {}

void RegistryCache::ask(const std::string& name, std::shared_ptr<Refresh> refresh, std::string request_id) {
  registry_.caller().call(msg::GetModel{.model = name}, {}, registry_.options(std::move(request_id)),
                          [heads = heads_, name, refresh = std::move(refresh)](Result<Message> answer) {
                            heads->on_answer(name, *refresh, Caller::as<msg::Models>(std::move(answer)));
                          });
}

Task<Result<ModelRef>> RegistryCache::model(std::string name, std::string request_id) {
  const Executor executor = co_await asio::this_coro::executor;
  ModelRef last;
  std::shared_ptr<Refresh> refresh;
  std::shared_ptr<Timer> timer;
  {
    const std::lock_guard lock(heads_->mutex);
    bool stale = false;
    if (const auto found = heads_->known.find(name); found != heads_->known.end()) {
      last = found->second.model;
      stale = found->second.stale;
      if (!stale && Clock::now() - found->second.fetched < fresh_) co_return last;
    }
    auto& asked = heads_->asked[name];
    if (!asked) {
      asked = std::make_shared<Refresh>();
      ask(name, asked, std::move(request_id));
    }
    const auto until = last ? asked->asked + kStaleWait : Clock::time_point::max();
    if (last && (!stale || Clock::now() >= until)) co_return last;
    refresh = asked;
    timer = std::make_shared<Timer>(executor, until);
    refresh->waiting.emplace_back(executor, timer);
  }
  // The answer's cancel() is posted to this thread, so it cannot come before the wait.
  boost::system::error_code ignored;
  co_await timer->async_wait(asio::redirect_error(kUseTask, ignored));
  const std::lock_guard lock(heads_->mutex);
  if (refresh->result) co_return *refresh->result;
  co_return last;
}

Task<Result<VersionRef>> RegistryCache::version(std::string model, std::uint64_t number, std::string request_id) {
  if (number == 0) co_return fail(Code::kNotFound, std::format("model '{}' has no version 0", model));
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = versions_.find({model, number}); found != versions_.end()) co_return found->second;
  }
  auto answer = co_await registry_.ask<msg::Versions>(msg::GetVersion{.model = model, .version = number, .alias = {}},
                                                      std::move(request_id));
  if (!answer) co_return std::unexpected(answer.error());
  if (answer->items.size() != 1) co_return fail(Code::kInternal, "the registry answered a version with none");
  auto fresh = std::make_shared<const Version>(std::move(answer->items.front()));
  const std::lock_guard lock(mutex_);
  if (versions_.size() >= kMostVersions) versions_.clear();
  versions_[{model, number}] = fresh;
  co_return fresh;
}

Task<Result<std::shared_ptr<const std::vector<std::string>>>> RegistryCache::model_names(std::string request_id) {
  {
    const std::lock_guard lock(mutex_);
    if (names_ && Clock::now() - names_->fetched < kFresh) co_return names_->names;
  }
  std::vector<std::string> names;
  constexpr std::uint32_t kPage = 500;
  while (true) {
    auto page = co_await registry_.ask<msg::Models>(
        msg::ListModels{.after = names.empty() ? std::string() : names.back(), .limit = kPage}, request_id);
    if (!page) {
      const std::lock_guard lock(mutex_);
      if (names_) co_return names_->names;
      co_return std::unexpected(page.error());
    }
    const bool more = may_have_next(page->items, kPage);
    for (auto& model : page->items) names.push_back(std::move(model.name));
    if (!more || page->items.empty()) break;
  }
  auto kept = std::make_shared<const std::vector<std::string>>(std::move(names));
  const std::lock_guard lock(mutex_);
  names_ = Names{.names = kept, .fetched = Clock::now()};
  co_return kept;
}

void RegistryCache::on_changed(const msg::Changed& changed) {
  const std::lock_guard lock(mutex_);
  const bool gap = revision_ != 0 && changed.revision > revision_ + 1;
  // A revision below the last one is another registry's history, e.g. one restored from a backup.
  const bool back = changed.revision < revision_;
  revision_ = changed.revision;
  const std::lock_guard heads_lock(heads_->mutex);
  if (gap || back) {
    heads_->invalidate_all();
    names_.reset();
    if (back) versions_.clear();
  }
  if (changed.subject == msg::Subject::kModel) {
    heads_->invalidate(changed.key);
    names_.reset();
  }
}

void RegistryCache::forget(const std::string& model) {
  const std::scoped_lock lock(mutex_, heads_->mutex);
  heads_->invalidate(model);
  names_.reset();
}

void RegistryCache::note_version(const std::string& model, std::uint64_t number) {
  if (number == 0) return;
  const std::scoped_lock lock(mutex_, heads_->mutex);
  const auto found = heads_->known.find(model);
  if (found == heads_->known.end() || found->second.model->latest >= number) return;
  heads_->invalidate(model);
  names_.reset();
}

}  // namespace slipway::gateway

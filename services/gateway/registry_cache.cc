#include "services/gateway/registry_cache.h"

#include <algorithm>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>

#include "lib/base/sha256.h"
#include "schema/limits.h"
#include "services/gateway/recent_map.h"

namespace slipway::gateway {
namespace {

using Clock = std::chrono::steady_clock;
using Timer =
    asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, Executor>;

// What is known of one kind of thing, and the questions for it: equal ones are asked once. Shared with answers under
// way. Threads: any, it locks inside.
template <class Key, class Value>
class Lookup : public std::enable_shared_from_this<Lookup<Key, Value>> {
 public:
  using Ref = std::shared_ptr<const Value>;
  using Read = Result<Ref> (*)(Result<Message>);  // an answer of the registry

  Lookup(std::optional<std::chrono::milliseconds> fresh, std::size_t most, Read read)
      : fresh_(fresh), read_(read), known_(most), unknown_(most) {}

  // What is known, fresh or not.
  [[nodiscard]] Ref peek(const Key& key) {
    const std::lock_guard lock(mutex_);
    const Known* known = known_.find(key);
    return known == nullptr ? nullptr : known->value;
  }

  // What is known and fresh: most requests need no more.
  [[nodiscard]] Ref fresh(const Key& key) {
    const std::lock_guard lock(mutex_);
    const Known* known = known_.find(key);
    return known != nullptr && is_fresh(*known) ? known->value : nullptr;
  }

  // As the header says of heads. `instead`: what to take after kStaleWait when the key itself is not known.
  Task<Result<Ref>> get(RegistryClient& registry, Key key, msg::Body question, std::string request_id,
                        Ref instead = nullptr) {
    const Executor executor = co_await asio::this_coro::executor;
    std::shared_ptr<Question> asked;
    std::shared_ptr<Timer> timer;
    {
      const std::lock_guard lock(mutex_);
      const auto now = Clock::now();
      bool wait = true;
      if (const Known* known = known_.find(key)) {
        if (is_fresh(*known)) co_return known->value;
        wait = known->stale && fresh_;  // what never changes may be served meanwhile
        instead = known->value;
      } else if (const Unknown* unknown = unknown_.find(key); unknown != nullptr && now < unknown->until) {
        co_return std::unexpected(unknown->error);
      }
      auto found = asked_.find(key);
      if (found == asked_.end()) {
        if (asked_.size() >= RegistryCache::kMostAsked) {
          if (instead) co_return instead;
          co_return std::unexpected(Error{.code = Code::kOverloaded,
                                          .message = "too many questions to the registry are open",
                                          .path = {},
                                          .retry_after = std::chrono::seconds(1)});
        }
        found = asked_.emplace(key, std::make_shared<Question>()).first;
        ask(registry, key, found->second, std::move(question), std::move(request_id));
      }
      asked = found->second;
      const auto until = instead ? asked->at + RegistryCache::kStaleWait : Clock::time_point::max();
      if (instead && (!wait || now >= until)) co_return instead;
      timer = std::make_shared<Timer>(executor, until);
      asked->waiting.emplace_back(executor, timer);
    }
    // The answer's cancel() is posted to this thread, so it cannot come before the wait.
    boost::system::error_code ignored;
    co_await timer->async_wait(asio::redirect_error(kUseTask, ignored));
    const std::lock_guard lock(mutex_);
    if (asked->result && (*asked->result || !instead || asked->result->error().code == Code::kNotFound))
      co_return *asked->result;
    co_return instead;
  }

  // It has changed, or may have. An answer under way may not know the change: the next request asks again.
  void invalidate(const Key& key) {
    const std::lock_guard lock(mutex_);
    if (Known* known = known_.find(key)) known->stale = true;
    unknown_.erase(key);
    if (const auto found = asked_.find(key); found != asked_.end()) {
      found->second->outdated = true;
      asked_.erase(found);
    }
  }
  void invalidate_all() {
    const std::lock_guard lock(mutex_);
    known_.each([](const Key&, Known& known) { known.stale = true; });
    outdate_questions();
    unknown_.clear();
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    known_.clear();
    outdate_questions();
    unknown_.clear();
  }
  // What was not there may be there now.
  void forget_unknown() {
    const std::lock_guard lock(mutex_);
    unknown_.clear();
  }
  template <class Wanted>
  void erase_if(Wanted wanted) {
    const std::lock_guard lock(mutex_);
    known_.erase_if([&](const Key&, const Known& known) { return wanted(*known.value); });
    outdate_questions();
  }

 private:
  // One question, and the requests that wait for its answer. Guarded by mutex_.
  struct Question {
    Clock::time_point at = Clock::now();
    bool outdated = false;  // there was a change since
    std::optional<Result<Ref>> result;
    std::vector<std::pair<Executor, std::shared_ptr<Timer>>> waiting;
  };
  struct Known {
    Ref value;
    Clock::time_point fetched{};
    bool stale = false;
  };
  struct Unknown {
    Error error;
    Clock::time_point until{};
  };

  [[nodiscard]] bool is_fresh(const Known& known) const {
    return !known.stale && (!fresh_ || Clock::now() - known.fetched < *fresh_);
  }

  void outdate_questions() {
    for (auto& [key, question] : asked_) question->outdated = true;
    asked_.clear();
  }

  void ask(RegistryClient& registry, const Key& key, std::shared_ptr<Question> asked, msg::Body question,
           std::string request_id) {
    registry.caller().call(std::move(question), {}, registry.options(std::move(request_id)),
                           [self = this->shared_from_this(), key, asked = std::move(asked)](Result<Message> answer) {
                             self->on_answer(key, *asked, self->read_(std::move(answer)));
                           });
  }

  void on_answer(const Key& key, Question& asked, Result<Ref> answer) {
    const std::lock_guard lock(mutex_);
    if (const auto found = asked_.find(key); found != asked_.end() && found->second.get() == &asked)
      asked_.erase(found);
    Known* last = known_.find(key);
    if (answer) {
      // After a change, what is known may be newer than this.
      if (!asked.outdated || last == nullptr)
        known_.set(key, {.value = *answer, .fetched = Clock::now(), .stale = asked.outdated});
      asked.result = std::move(answer);
    } else if (answer.error().code == Code::kNotFound) {
      if (!asked.outdated) {
        known_.erase(key);
        unknown_.set(key, {.error = answer.error(), .until = Clock::now() + RegistryCache::kUnknownFor});
      }
      asked.result = std::move(answer);
    } else if (last != nullptr) {
      // Serving goes on without the registry, with what was last known.
      if (!asked.outdated) last->stale = false;
      last->fetched = Clock::now();
      asked.result = last->value;
    } else {
      Error error = std::move(answer).error();
      if (error.code == Code::kDeadlineExceeded)
        error = {.code = Code::kUnavailable, .message = "the registry does not answer", .path = {}};
      asked.result = std::unexpected(std::move(error));
    }
    for (auto& [executor, timer] : asked.waiting) asio::post(executor, [timer] { timer->cancel(); });
    asked.waiting.clear();
  }

  const std::optional<std::chrono::milliseconds> fresh_;  // none: for ever
  const Read read_;
  std::mutex mutex_;
  RecentMap<Key, Known> known_;
  RecentMap<Key, Unknown> unknown_;
  std::map<Key, std::shared_ptr<Question>> asked_;
};

Result<ModelRef> read_model(Result<Message> message) {
  auto answer = Caller::as<msg::Models>(std::move(message));
  if (!answer) return std::unexpected(std::move(answer).error());
  if (answer->items.size() != 1) return fail(Code::kInternal, "the registry answered a model with none");
  return std::make_shared<const Model>(std::move(answer->items.front()));
}

Result<VersionRef> read_version(Result<Message> message) {
  auto answer = Caller::as<msg::Versions>(std::move(message));
  if (!answer) return std::unexpected(std::move(answer).error());
  if (answer->items.size() != 1) return fail(Code::kInternal, "the registry answered a version with none");
  return std::make_shared<const Version>(std::move(answer->items.front()));
}

Result<NamesRef> read_names(Result<Message> message) {
  auto answer = Caller::as<msg::Models>(std::move(message));
  if (!answer) return std::unexpected(std::move(answer).error());
  std::vector<std::string> names;
  for (auto& model : answer->items) names.push_back(std::move(model.name));
  return std::make_shared<const std::vector<std::string>>(std::move(names));
}

using VersionId = std::pair<std::string, std::uint64_t>;
using Target = std::pair<std::string, std::string>;  // a model and an alias; no alias: its latest version

const std::string kNoKey;

Error unloaded(const std::string& model, const std::uint64_t* version) {
  if (version == nullptr) {
    return {.code = Code::kNotFound,
            .message = std::format("{}'{}' has no available versions; it was unloaded", kUnknownModel, model),
            .path = {}};
  }
  return {.code = Code::kUnavailable,
          .message = std::format("{}'{}' version {} is not at ready state; the model was unloaded", kUnknownModel,
                                 model, *version),
          .path = {}};
}

}  // namespace

struct RegistryCache::Memory {
  Memory(std::chrono::milliseconds fresh, std::size_t most)
      : heads(std::make_shared<Lookup<std::string, Model>>(fresh, most, read_model)),
        versions(std::make_shared<Lookup<VersionId, Version>>(std::nullopt, most, read_version)),
        first_names(std::make_shared<Lookup<std::string, std::vector<std::string>>>(fresh, 1, read_names)),
        served(most) {}

  const std::shared_ptr<Lookup<std::string, Model>> heads;
  const std::shared_ptr<Lookup<VersionId, Version>> versions;
  const std::shared_ptr<Lookup<std::string, std::vector<std::string>>> first_names;
  std::mutex mutex;
  RecentMap<Target, VersionRef> served;  // where a target led last

  void note_served(Target target, const VersionRef& version) {
    const std::lock_guard lock(mutex);
    VersionRef* last = served.find(target);
    if (last == nullptr)
      served.set(std::move(target), version);
    else if (*last != version)
      *last = version;
  }
  [[nodiscard]] VersionRef last_served(const Target& target) {
    const std::lock_guard lock(mutex);
    const VersionRef* last = served.find(target);
    return last == nullptr ? nullptr : *last;
  }
};

RegistryCache::RegistryCache(RegistryClient& registry, std::chrono::milliseconds fresh, std::size_t most)
    : registry_(registry), fresh_(fresh), most_(most), memory_(std::make_unique<Memory>(fresh, most)) {}

RegistryCache::~RegistryCache() = default;

Task<Result<VersionRef>> RegistryCache::resolve(std::string name, VersionChoice choice, std::string request_id) {
  return choose(std::move(name), std::move(choice), std::move(request_id), true);
}

Task<Result<VersionRef>> RegistryCache::find(std::string name, VersionChoice choice, std::string request_id) {
  return choose(std::move(name), std::move(choice), std::move(request_id), false);
}

Task<Result<VersionRef>> RegistryCache::choose(std::string name, VersionChoice choice, std::string request_id,
                                               bool served) {
  const auto* number_wanted = std::get_if<std::uint64_t>(&choice);
  if (number_wanted != nullptr && !served) {
    co_return co_await version(std::move(name), *number_wanted, std::move(request_id));
  }
  ModelRef head = memory_->heads->fresh(name);
  if (!head) {
    auto asked = co_await model(name, request_id);
    if (asked) {
      head = std::move(*asked);
    } else if (number_wanted == nullptr || asked.error().code == Code::kNotFound) {
      co_return std::unexpected(asked.error());
    }
  }
  if (served && head && head->unloaded) co_return std::unexpected(unloaded(name, number_wanted));
  if (number_wanted != nullptr) co_return co_await version(std::move(name), *number_wanted, std::move(request_id));
  std::uint64_t number = head->latest;
  Target target{name, {}};
  if (auto* alias = std::get_if<AliasName>(&choice)) {
    const auto found = std::ranges::find(head->aliases, alias->name, &Alias::name);
    if (found == head->aliases.end()) {
      co_return fail(Code::kNotFound, std::format("model '{}' has no alias '{}'", name, alias->name));
    }
    number = found->version;
    target.second = std::move(alias->name);
  }
  if (number == 0) co_return fail(Code::kNotFound, std::format("model '{}' has no version yet", name));
  // A head may name a version that is not known here yet when the registry goes away: the one before is served on then.
  VersionId key{std::move(name), number};
  if (VersionRef known = memory_->versions->fresh(key)) {
    memory_->note_served(std::move(target), known);
    co_return known;
  }
  VersionRef last = memory_->last_served(target);
  msg::GetVersion question{.model = key.first, .version = number, .alias = {}};
  auto found = co_await memory_->versions->get(registry_, std::move(key), std::move(question), std::move(request_id),
                                               std::move(last));
  if (found) memory_->note_served(std::move(target), *found);
  co_return found;
}

Task<Result<ModelRef>> RegistryCache::model(std::string name, std::string request_id) {
  msg::GetModel question{.model = name};
  co_return co_await memory_->heads->get(registry_, std::move(name), std::move(question), std::move(request_id));
}

Task<Result<VersionRef>> RegistryCache::version(std::string model, std::uint64_t number, std::string request_id) {
  if (number == 0) co_return fail(Code::kNotFound, std::format("model '{}' has no version 0", model));
  msg::GetVersion question{.model = model, .version = number, .alias = {}};
  co_return co_await memory_->versions->get(registry_, {std::move(model), number}, std::move(question),
                                            std::move(request_id));
}

Task<Result<NamesRef>> RegistryCache::first_names(std::string request_id) {
  co_return co_await memory_->first_names->get(registry_, kNoKey, msg::ListModels{.after = {}, .limit = 2},
                                               std::move(request_id));
}

Task<Result<NamesRef>> RegistryCache::model_names(std::string request_id) {
  {
    const std::lock_guard lock(mutex_);
    if (names_ && Clock::now() - names_->fetched < fresh_) co_return names_->names;
  }
  std::vector<std::string> names;
  const auto read = co_await registry_.each_model(std::move(request_id),
                                                  [&](Model model) { names.push_back(std::move(model.name)); });
  if (!read) {
    const std::lock_guard lock(mutex_);
    if (names_) co_return names_->names;
    co_return std::unexpected(read.error());
  }
  auto kept = std::make_shared<const std::vector<std::string>>(std::move(names));
  const std::lock_guard lock(mutex_);
  names_ = Names{.names = kept, .fetched = Clock::now()};
  co_return kept;
}

Task<Result<std::size_t>> RegistryCache::read_all(std::string request_id) {
  const auto names = co_await model_names(request_id);
  if (!names) co_return std::unexpected(names.error());
  std::size_t versions = 0;
  for (const std::string& name : **names) {
    const auto head = co_await model(name, request_id);
    if (!head && head.error().code == Code::kUnavailable) co_return std::unexpected(head.error());
    if (!head) continue;
    std::vector<VersionChoice> choices{Latest{}};
    for (const Alias& alias : (*head)->aliases) choices.emplace_back(AliasName{alias.name});
    for (VersionChoice& choice : choices) {
      if (versions == most_) co_return versions;
      const auto version = co_await find(name, std::move(choice), request_id);
      if (version)
        ++versions;
      else if (version.error().code == Code::kUnavailable)
        co_return std::unexpected(version.error());
    }
  }
  co_return versions;
}

void RegistryCache::on_changed(const msg::Changed& changed) {
  bool gap = false;
  bool other = false;
  {
    const std::lock_guard lock(mutex_);
    gap = revision_ != 0 && changed.revision > revision_ + 1;
    // Of a registry that has another history, such as one restored from a backup: numbers may have been given anew.
    other = changed.revision < revision_ || (revision_ != 0 && changed.revision - revision_ >= kRestoredRevisions);
    revision_ = changed.revision;
    if (gap || other || changed.subject == msg::Subject::kModel) names_.reset();
  }
  if (other) {
    memory_->versions->clear();
    const std::lock_guard lock(memory_->mutex);
    memory_->served.clear();
  }
  if (gap || other) {
    memory_->heads->invalidate_all();
    memory_->versions->invalidate_all();  // a quarantine may be among what was missed
    memory_->first_names->invalidate(kNoKey);
  }
  if (changed.subject == msg::Subject::kModel) forget(changed.key);
  if (changed.subject == msg::Subject::kQuarantine) {
    memory_->versions->erase_if([&](const Version& version) {
      return std::ranges::any_of(version.files,
                                 [&](const StoredFile& file) { return to_hex(file.digest) == changed.key; });
    });
  }
}

void RegistryCache::forget(const std::string& model) {
  memory_->heads->invalidate(model);
  memory_->versions->forget_unknown();
  memory_->first_names->invalidate(kNoKey);
  const std::lock_guard lock(mutex_);
  names_.reset();
}

void RegistryCache::note_version(const std::string& model, std::uint64_t number) {
  if (number == 0) return;
  const ModelRef head = memory_->heads->peek(model);
  if (!head)
    memory_->heads->invalidate(model);  // "there is no such model" may be remembered
  else if (head->latest < number)
    forget(model);
}

}  // namespace slipway::gateway

#include "services/gateway/registry_cache.h"

#include <algorithm>

namespace slipway::gateway {

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

Task<Result<ModelRef>> RegistryCache::model(std::string name, std::string request_id) {
  ModelRef last;
  std::uint64_t changes = 0;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = heads_.find(name); found != heads_.end()) {
      if (!found->second.stale && Clock::now() - found->second.fetched < kFresh) co_return found->second.model;
      last = found->second.model;
    }
    changes = changes_;
  }
  auto answer = co_await registry_.ask<msg::Models>(msg::GetModel{.model = name}, std::move(request_id));
  const std::lock_guard lock(mutex_);
  if (!answer) {
    if (answer.error().code == Code::kNotFound) heads_.erase(name);
    // Serving goes on without the registry, with what was last known.
    else if (last) {
      heads_[name] = {.model = last, .fetched = Clock::now(), .stale = false};
      co_return last;
    }
    co_return std::unexpected(answer.error());
  }
  if (answer->items.size() != 1) co_return fail(Code::kInternal, "the registry answered a model with none");
  auto fresh = std::make_shared<const Model>(std::move(answer->items.front()));
  if (heads_.size() >= kMostHeads) heads_.clear();
  heads_[name] = {.model = fresh, .fetched = Clock::now(), .stale = changes != changes_};
  co_return fresh;
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
    for (auto& model : page->items) names.push_back(std::move(model.name));
    if (page->items.size() < kPage) break;
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
  if (gap || back) {
    ++changes_;
    for (auto& [name, head] : heads_) head.stale = true;
    names_.reset();
    if (back) versions_.clear();
  }
  if (changed.subject == msg::Subject::kModel) {
    ++changes_;
    if (const auto found = heads_.find(changed.key); found != heads_.end()) found->second.stale = true;
    names_.reset();
  }
}

void RegistryCache::forget(const std::string& model) {
  const std::lock_guard lock(mutex_);
  ++changes_;
  if (const auto found = heads_.find(model); found != heads_.end()) found->second.stale = true;
  names_.reset();
}

void RegistryCache::note_version(const std::string& model, std::uint64_t number) {
  if (number == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = heads_.find(model);
  if (found == heads_.end() || found->second.model->latest >= number) return;
  ++changes_;
  found->second.stale = true;
  names_.reset();
}

}  // namespace slipway::gateway

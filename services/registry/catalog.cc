#include "services/registry/catalog.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <limits>

#include "lib/base/sha256.h"
#include "lib/wire/page.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::size_t kMaxActorBytes = 256;
constexpr std::size_t kMaxReasonBytes = 2'000;

template <class Record>
Result<Record> decode(std::string_view value) {
  return decode_record<Record>(std::as_bytes(std::span(value)));
}

std::string digest_key(const std::string& name, const Digest& digest) {
  return std::format("dataset/{}/{}", name, to_hex(digest));
}

void drop_chunks(std::vector<StoredFile>& files) {
  for (StoredFile& file : files) file.chunks.clear();
}

// What a list leaves out: it may be longer than everything else together.
void cut_for_list(Dataset& dataset) {
  drop_chunks(dataset.files);
  dataset.columns.clear();
}

// The record with the highest number under `name`.
template <class Record>
Result<std::optional<Record>> newest(const RocksStore& store, Family family, const std::string& name) {
  std::optional<Record> found;
  auto scanned = store.scan_back(family, first_key(name), end_key(name), [&](auto, auto value) -> Result<bool> {
    auto record = decode<Record>(value);
    if (!record) return std::unexpected(std::move(record).error());
    found = std::move(*record);
    return false;
  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

}  // namespace

std::uint32_t page_size(std::uint32_t limit) { return limit == 0 ? kDefaultPage : std::min(limit, kMaxPage); }

Result<void> check_signature(const Signature& signature) {
  if (!signature.inputs.empty() && !signature.outputs.empty()) return {};
  return fail(Code::kInvalidArgument,
              std::format("a signature of {} inputs and {} outputs, wanted at least one of each",
                          signature.inputs.size(), signature.outputs.size()));
}

// --- data sets ---

Result<msg::DatasetStored> Catalog::commit_dataset(Dataset described, std::int64_t now_ms) {
  if (auto named = check_name("data set", described.name); !named) return std::unexpected(named.error());

  const std::string same_content = digest_key(described.name, described.digest);
  auto existing = store_.get(Family::kMeta, same_content);
  if (!existing) return std::unexpected(std::move(existing).error());
  if (*existing) {
    auto there = dataset(described.name, number_of(**existing));
    if (!there) return std::unexpected(std::move(there).error());
    return msg::DatasetStored{.dataset = std::move(*there), .created = false};
  }

  auto last = newest<Dataset>(store_, Family::kDatasets, described.name);
  if (!last) return std::unexpected(std::move(last).error());
  described.version = *last ? (*last)->version + 1 : 1;
  described.created_ms = now_ms;

  Batch batch;
  batch.put_record(Family::kDatasets, numbered_key(described.name, described.version), described);
  batch.put(Family::kMeta, same_content, number_key(described.version));
  batch.tell({.subject = msg::Subject::kDataset, .key = described.name});
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return msg::DatasetStored{.dataset = std::move(described), .created = true};
}

Result<Dataset> Catalog::dataset(const std::string& name, std::uint64_t version) const {
  if (auto named = check_name("data set", name); !named) return std::unexpected(named.error());
  auto found = version == 0 ? newest<Dataset>(store_, Family::kDatasets, name)
                            : store_.get_record<Dataset>(Family::kDatasets, numbered_key(name, version));
  if (!found) return std::unexpected(std::move(found).error());
  if (*found) return std::move(**found);
  if (version == 0) return fail(Code::kNotFound, std::format("there is no data set '{}'", name));
  return fail(Code::kNotFound, std::format("there is no version {} of data set '{}'", version, name));
}

Result<std::vector<Dataset>> Catalog::list_datasets(const msg::ListDatasets& question) const {
  PageMeter page(page_size(question.limit));
  std::vector<Dataset> found;
  if (!question.name.empty()) {
    if (auto named = check_name("data set", question.name); !named) return std::unexpected(named.error());
    auto scanned = store_.scan(Family::kDatasets, numbered_key(question.name, question.after_version + 1),
                               end_key(question.name), [&](auto, auto value) -> Result<bool> {
                                 auto record = decode<Dataset>(value);
                                 if (!record) return std::unexpected(std::move(record).error());
                                 cut_for_list(*record);
                                 found.push_back(std::move(*record));
                                 return page.count(found.back());
                               });
    if (!scanned) return std::unexpected(std::move(scanned).error());
    if (found.empty() && question.after_version == 0) {
      return fail(Code::kNotFound, std::format("there is no data set '{}'", question.name));
    }
    return found;
  }

  // From each name to the next one, over its versions.
  std::string from = question.after.empty() ? "" : end_key(question.after);
  for (bool more = true; more;) {
    std::string name;
    auto scanned = store_.scan(Family::kDatasets, from, {}, [&](std::string_view key, auto) -> Result<bool> {
      name = key.substr(0, key.find('/'));
      return false;
    });
    if (!scanned) return std::unexpected(std::move(scanned).error());
    if (name.empty()) break;
    auto record = newest<Dataset>(store_, Family::kDatasets, name);
    if (!record) return std::unexpected(std::move(record).error());
    if (*record) {
      cut_for_list(**record);
      found.push_back(std::move(**record));
      more = page.count(found.back());
    }
    from = end_key(name);
  }
  return found;
}

// --- models ---

Result<Model> Catalog::model(const std::string& name) const {
  if (auto named = check_name("model", name); !named) return std::unexpected(named.error());
  auto found = store_.get_record<Model>(Family::kModels, name);
  if (!found) return std::unexpected(std::move(found).error());
  if (!*found) return fail(Code::kNotFound, std::format("there is no model '{}'", name));
  return std::move(**found);
}

Result<std::vector<Model>> Catalog::list_models(const msg::ListModels& question) const {
  PageMeter page(page_size(question.limit));
  const std::string from = question.after.empty() ? "" : question.after + '\0';
  std::vector<Model> found;
  auto scanned = store_.scan(Family::kModels, from, {}, [&](auto, auto value) -> Result<bool> {
    auto record = decode<Model>(value);
    if (!record) return std::unexpected(std::move(record).error());
    found.push_back(std::move(*record));
    return page.count(found.back());
  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

Result<Version> Catalog::add_version(Batch& batch, Version version, std::int64_t now_ms) const {
  auto existing = store_.get_record<Model>(Family::kModels, version.model);
  if (!existing) return std::unexpected(std::move(existing).error());
  Model model;
  model.name = version.model;
  model.created_ms = now_ms;
  if (*existing) model = std::move(**existing);

  version.number = ++model.latest;
  version.created_ms = model.updated_ms = now_ms;
  batch.put_record(Family::kModels, model.name, model);
  batch.put_record(Family::kVersions, numbered_key(version.model, version.number), version);
  batch.tell({.subject = msg::Subject::kModel, .key = model.name});
  return version;
}

Result<Version> Catalog::commit_version(const msg::CommitVersion& question, std::vector<StoredFile> files,
                                        std::int64_t now_ms) {
  if (auto named = check_name("model", question.model); !named) return std::unexpected(named.error());
  if (auto whole = check_signature(question.signature); !whole) return std::unexpected(whole.error());
  if (auto plain = check_text("actor", question.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());

  Version version;
  version.model = question.model;
  version.signature = question.signature;
  version.files = std::move(files);
  version.uploaded = true;
  version.actor = question.actor;
  Batch batch;
  auto added = add_version(batch, std::move(version), now_ms);
  if (!added) return added;
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return added;
}

Result<Version> Catalog::version(const msg::GetVersion& question) const {
  const auto owner = model(question.model);
  if (!owner) return std::unexpected(owner.error());
  std::uint64_t number = question.version;
  if (number == 0 && !question.alias.empty()) {
    const auto alias = std::ranges::find(owner->aliases, question.alias, &Alias::name);
    if (alias == owner->aliases.end()) {
      if (auto named = check_name("alias", question.alias); !named) return std::unexpected(named.error());
      return fail(Code::kNotFound, std::format("model '{}' has no alias '{}'", question.model, question.alias));
    }
    number = alias->version;
  } else if (number == 0) {
    number = owner->latest;
  }
  auto found = store_.get_record<Version>(Family::kVersions, numbered_key(question.model, number));
  if (!found) return std::unexpected(std::move(found).error());
  if (!*found) {
    return fail(Code::kNotFound,
                std::format("model '{}' has no version {}, its latest is {}", question.model, number, owner->latest));
  }
  return std::move(**found);
}

Result<std::vector<Version>> Catalog::list_versions(const msg::ListVersions& question) const {
  if (auto owner = model(question.model); !owner) return std::unexpected(std::move(owner).error());
  PageMeter page(page_size(question.limit));
  std::vector<Version> found;
  if (question.after == std::numeric_limits<std::uint64_t>::max()) return found;
  auto scanned = store_.scan(Family::kVersions, numbered_key(question.model, question.after + 1),
                             end_key(question.model), [&](auto, auto value) -> Result<bool> {
                               auto record = decode<Version>(value);
                               if (!record) return std::unexpected(std::move(record).error());
                               drop_chunks(record->files);
                               found.push_back(std::move(*record));
                               return page.count(found.back());
                             });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

// --- aliases ---

Result<Model> Catalog::move_alias(const msg::MoveAlias& question, std::int64_t now_ms) {
  auto owner = model(question.model);
  if (!owner) return owner;
  if (auto named = check_name("alias", question.alias); !named) return std::unexpected(named.error());
  if (question.to != 0 && is_version_word(question.alias)) {
    return fail(Code::kInvalidArgument,
                std::format("alias '{}': numbers and 'latest' already mean a version", question.alias));
  }
  if (auto plain = check_text("reason", question.reason, kMaxReasonBytes); !plain) {
    return std::unexpected(plain.error());
  }
  if (auto plain = check_text("actor", question.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());

  const auto alias = std::ranges::find(owner->aliases, question.alias, &Alias::name);
  const std::uint64_t now_at = alias == owner->aliases.end() ? 0 : alias->version;
  const auto place = [](std::uint64_t version) {
    return version == 0 ? std::string("not set") : std::format("at version {}", version);
  };
  if (question.check_expected && question.expected != now_at) {
    return fail(Code::kConflict, std::format("alias '{}' of '{}' is {}, expected {}", question.alias, question.model,
                                             place(now_at), place(question.expected)));
  }
  if (question.to == 0 && now_at == 0) {
    return fail(Code::kNotFound, std::format("model '{}' has no alias '{}'", question.model, question.alias));
  }
  if (question.to > owner->latest) {
    return fail(Code::kNotFound, std::format("model '{}' has no version {}, its latest is {}", question.model,
                                             question.to, owner->latest));
  }
  if (question.to == now_at) return owner;

  if (question.to == 0) {
    owner->aliases.erase(alias);
  } else if (alias != owner->aliases.end()) {
    alias->version = question.to;
  } else {
    owner->aliases.push_back({.name = question.alias, .version = question.to});
    std::ranges::sort(owner->aliases, {}, &Alias::name);
  }
  owner->updated_ms = now_ms;

  std::uint64_t last_move = 0;
  auto scanned = store_.scan_back(Family::kAliasMoves, first_key(question.model), end_key(question.model),
                                  [&](std::string_view key, auto) -> Result<bool> {
                                    last_move = number_of(key);
                                    return false;
                                  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  const AliasMove move{.model = question.model,
                       .alias = question.alias,
                       .from = now_at,
                       .to = question.to,
                       .reason = question.reason,
                       .actor = question.actor,
                       .at_ms = now_ms};
  Batch batch;
  batch.put_record(Family::kModels, owner->name, *owner);
  batch.put_record(Family::kAliasMoves, numbered_key(question.model, last_move + 1), move);
  batch.tell({.subject = msg::Subject::kModel, .key = question.model});
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return owner;
}

Result<std::vector<AliasMove>> Catalog::list_alias_moves(const std::string& name) const {
  if (auto owner = model(name); !owner) return std::unexpected(std::move(owner).error());
  std::vector<AliasMove> found;
  auto scanned =
      store_.scan_back(Family::kAliasMoves, first_key(name), end_key(name), [&](auto, auto value) -> Result<bool> {
        auto record = decode<AliasMove>(value);
        if (!record) return std::unexpected(std::move(record).error());
        found.push_back(std::move(*record));
        return found.size() < kMaxPage;
      });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  std::ranges::reverse(found);
  return found;
}

// --- chunks ---

Result<DigestSet> Catalog::collect_chunks() const {
  DigestSet chunks;
  const auto collect = [&]<class Record>(Family family) -> Result<void> {
    return store_.scan(family, {}, {}, [&](auto, auto value) -> Result<bool> {
      auto record = decode<Record>(value);
      if (!record) return std::unexpected(std::move(record).error());
      for (const StoredFile& file : record->files) chunks.insert(file.chunks.begin(), file.chunks.end());
      return true;
    });
  };
  auto done = collect.template operator()<Dataset>(Family::kDatasets);
  if (done) done = collect.template operator()<Version>(Family::kVersions);
  if (done) done = collect.template operator()<Checkpoint>(Family::kCheckpoints);
  if (!done) return std::unexpected(std::move(done).error());
  return chunks;
}

}  // namespace slipway::registry

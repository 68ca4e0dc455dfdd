#include "services/registry/catalog.h"

#include <algorithm>
#include <cstring>
#include <format>
#include <limits>

#include "lib/base/sha256.h"
#include "lib/wire/page.h"
#include "services/registry/names.h"

namespace slipway::registry {
namespace {

constexpr std::size_t kMaxReasonBytes = 2'000;

// Of what a version is asked to be: its model, its files and its signature.
Digest document_of(const msg::CommitVersion& question, const std::vector<StoredFile>& files) {
  Version asked;
  asked.model = question.model;
  asked.signature = question.signature;
  for (const StoredFile& file : files) {
    asked.files.push_back({.name = file.name, .size_bytes = file.size_bytes, .digest = file.digest, .chunks = {}});
  }
  return sha256(encode_record(asked));
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

// The highest number under `name`, whether its record can be read or not; 0: none.
Result<std::uint64_t> last_number(const RocksStore& store, Family family, const std::string& name) {
  std::uint64_t number = 0;
  auto scanned = store.scan_back(family, first_key(name), end_key(name), [&](std::string_view key, auto) {
    number = number_of(key);
    return Result<bool>(false);
  });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return number;
}

// The model's moves of an earlier release, of all aliases: "model/number" has one stroke, "model/alias/number" two.
bool is_unsorted_move(std::string_view key, const std::string& model) {
  return key.find('/', model.size() + 1) == std::string_view::npos;
}

std::string moves_of(const std::string& model, const std::string& alias) { return std::format("{}/{}", model, alias); }

// The moves of an alias that were written before moves were kept by alias, oldest first and numbered.
Result<std::vector<AliasMove>> unsorted_moves(const RocksStore& store, const std::string& model,
                                              const std::string& alias) {
  std::vector<AliasMove> found;
  // Keys of numbers all begin with a digit.
  auto scanned = store.scan(Family::kAliasMoves, first_key(model), first_key(model) + ':',
                            [&](std::string_view key, std::string_view value) -> Result<bool> {
                              if (!is_unsorted_move(key, model)) return true;
                              auto move = store.read<AliasMove>(Family::kAliasMoves, key, value);
                              if (!move || move->alias != alias) return true;
                              move->number = found.size() + 1;
                              found.push_back(std::move(*move));
                              return true;
                            });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

// Every aligned piece of a record that may be a digest: Cap'n Proto keeps one as it is, from a multiple of 8 bytes on.
void add_possible_digests(std::string_view value, DigestSet& chunks) {
  constexpr std::size_t kStep = 8;
  Digest digest;
  for (std::size_t at = 0; at + digest.bytes.size() <= value.size(); at += kStep) {
    std::memcpy(digest.bytes.data(), value.data() + at, digest.bytes.size());
    chunks.insert(digest);
  }
}

template <class Record>
Result<void> collect(const RocksStore& store, Family family, DigestSet& chunks) {
  return store.scan(family, {}, {}, [&](std::string_view key, std::string_view value) -> Result<bool> {
    const auto record = store.read<Record>(family, key, value);
    if (!record || !later_release(*record).empty()) {
      add_possible_digests(value, chunks);
      if (!record) return true;
    }
    for (const StoredFile& file : record->files) chunks.insert(file.chunks.begin(), file.chunks.end());
    return true;
  });
}

}  // namespace

std::uint32_t page_size(std::uint32_t limit) { return limit == 0 ? kDefaultPage : std::min(limit, kMaxPage); }

Result<void> check_signature(const Signature& signature) {
  if (signature.inputs.empty() || signature.outputs.empty()) {
    return fail(Code::kInvalidArgument,
                std::format("a signature of {} inputs and {} outputs, wanted at least one of each",
                            signature.inputs.size(), signature.outputs.size()));
  }
  Version alone;
  alone.signature = signature;
  if (const auto size = encoded_bytes(alone); size > kMaxSignatureBytes) {
    return fail(Code::kTooLarge, std::format("a signature of {} bytes, at most {} are kept", size, kMaxSignatureBytes));
  }
  return {};
}

// --- data sets ---

Result<msg::DatasetStored> Catalog::commit_dataset(Dataset described, std::int64_t now_ms) {
  if (auto named = check_name("data set", described.name); !named) return std::unexpected(named.error());
  if (auto plain = check_text("actor", described.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());

  const std::string same_content = digest_key(described.name, described.digest);
  auto existing = store_.get(Family::kMeta, same_content);
  if (!existing) return std::unexpected(std::move(existing).error());
  if (*existing) {
    auto there = dataset(described.name, number_of(**existing));
    if (!there) return std::unexpected(std::move(there).error());
    return msg::DatasetStored{.dataset = std::move(*there), .created = false};
  }

  const auto last = last_number(store_, Family::kDatasets, described.name);
  if (!last) return std::unexpected(last.error());
  described.version = *last + 1;
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
  const auto newest = version == 0 ? last_number(store_, Family::kDatasets, name) : version;
  if (!newest) return std::unexpected(newest.error());
  auto found = store_.get_record<Dataset>(Family::kDatasets, numbered_key(name, *newest));
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
    if (question.after_version == std::numeric_limits<std::uint64_t>::max()) return found;
    auto scanned =
        store_.scan_records<Dataset>(Family::kDatasets, numbered_key(question.name, question.after_version + 1),
                                     end_key(question.name), [&](auto, Dataset record) -> Result<bool> {
                                       cut_for_list(record);
                                       found.push_back(std::move(record));
                                       return page.count(found.back());
                                     });
    if (!scanned) return std::unexpected(std::move(scanned).error());
    if (!found.empty() || question.after_version > 0) return found;
    const auto last = last_number(store_, Family::kDatasets, question.name);
    if (!last) return std::unexpected(last.error());
    if (*last == 0) {
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
    scanned = store_.scan_records_back<Dataset>(Family::kDatasets, first_key(name), end_key(name),
                                                [&](auto, Dataset record) -> Result<bool> {
                                                  cut_for_list(record);
                                                  found.push_back(std::move(record));
                                                  more = page.count(found.back());
                                                  return false;
                                                });
    if (!scanned) return std::unexpected(std::move(scanned).error());
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
  auto scanned = store_.scan_records<Model>(Family::kModels, from, {}, [&](auto, Model record) -> Result<bool> {
    found.push_back(std::move(record));
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

Result<Version> Catalog::commit_version(const msg::CommitVersion& question, Result<std::vector<StoredFile>> files,
                                        std::int64_t now_ms) {
  if (auto named = check_name("model", question.model); !named) return std::unexpected(named.error());
  const auto made = marks_.version_made(question.upload);
  if (!made) return std::unexpected(made.error());
  if (*made && (*made)->model != question.model) {
    return fail(Code::kConflict,
                std::format("the upload has become version {} of '{}'", (*made)->version, (*made)->model));
  }
  if (*made) return this->version({.model = (*made)->model, .version = (*made)->version, .alias = {}});

  if (!files) return std::unexpected(std::move(files).error());
  if (auto whole = check_signature(question.signature); !whole) return std::unexpected(whole.error());
  if (auto plain = check_text("actor", question.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());
  if (auto plain = check_text("idempotency key", question.idempotency_key, kMaxKeyBytes); !plain)
    return std::unexpected(plain.error());
  const Digest document = document_of(question, *files);
  if (!question.idempotency_key.empty()) {
    const auto before = marks_.publication(question.actor, question.idempotency_key, now_ms);
    if (!before) return std::unexpected(before.error());
    if (*before) {
      const auto& first = (*before)->made;
      if ((*before)->document == document) {
        return this->version({.model = first.model, .version = first.version, .alias = {}});
      }
      return fail(Code::kConflict,
                  std::format("the idempotency key was used within the last day for version {} of '{}', whose model, "
                              "file and signature have the SHA-256 {}; these have {}",
                              first.version, first.model, to_hex((*before)->document), to_hex(document)));
    }
  }

  Version version;
  version.model = question.model;
  version.signature = question.signature;
  version.files = std::move(*files);
  version.uploaded = true;
  version.actor = question.actor;
  if (auto looked = quarantines_.fill(version); !looked) return std::unexpected(looked.error());
  if (!version.quarantined.empty()) {
    return fail(Code::kInvalidArgument, "this file is quarantined: " + version.quarantined);
  }
  Batch batch;
  auto added = add_version(batch, std::move(version), now_ms);
  if (!added) return added;
  const RepeatMarks::VersionMade became{.model = added->model, .version = added->number};
  RepeatMarks::put_version_made(batch, question.upload, became, now_ms);
  if (!question.idempotency_key.empty()) {
    RepeatMarks::put_publication(batch, question.actor, question.idempotency_key,
                                 {.made = became, .document = document}, now_ms);
  }
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
  if (auto filled = quarantines_.fill(**found); !filled) return std::unexpected(filled.error());
  return std::move(**found);
}

Result<std::vector<Version>> Catalog::list_versions(const msg::ListVersions& question) const {
  if (auto owner = model(question.model); !owner) return std::unexpected(std::move(owner).error());
  PageMeter page(page_size(question.limit));
  std::vector<Version> found;
  if (question.after == std::numeric_limits<std::uint64_t>::max()) return found;
  auto scanned = store_.scan_records<Version>(Family::kVersions, numbered_key(question.model, question.after + 1),
                                              end_key(question.model), [&](auto, Version record) -> Result<bool> {
                                                drop_chunks(record.files);
                                                if (auto filled = quarantines_.fill(record); !filled)
                                                  return std::unexpected(filled.error());
                                                found.push_back(std::move(record));
                                                return page.count(found.back());
                                              });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return found;
}

Result<Model> Catalog::set_serving(const msg::SetServing& question, std::int64_t now_ms) {
  auto owner = model(question.model);
  if (!owner) return owner;
  if (auto plain = check_text("actor", question.actor, kMaxActorBytes); !plain) return std::unexpected(plain.error());
  if (owner->unloaded != question.served) return owner;
  owner->unloaded = !question.served;
  owner->serving_actor = question.actor;
  owner->serving_at_ms = now_ms;
  owner->updated_ms = now_ms;
  Batch batch;
  batch.put_record(Family::kModels, owner->name, *owner);
  batch.tell({.subject = msg::Subject::kModel, .key = question.model});
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return owner;
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
    if (owner->aliases.size() >= kMaxAliases) {
      return fail(Code::kTooLarge, std::format("model '{}' has {} aliases, at most {} are kept: delete one first",
                                               question.model, owner->aliases.size(), kMaxAliases));
    }
    owner->aliases.push_back({.name = question.alias, .version = question.to});
    std::ranges::sort(owner->aliases, {}, &Alias::name);
  }
  owner->updated_ms = now_ms;

  auto last_move = last_number(store_, Family::kAliasMoves, moves_of(question.model, question.alias));
  if (!last_move) return std::unexpected(std::move(last_move).error());
  if (*last_move == 0) {
    const auto earlier = unsorted_moves(store_, question.model, question.alias);
    if (!earlier) return std::unexpected(earlier.error());
    last_move = earlier->size();
  }
  const AliasMove move{.model = question.model,
                       .alias = question.alias,
                       .from = now_at,
                       .to = question.to,
                       .reason = question.reason,
                       .actor = question.actor,
                       .at_ms = now_ms,
                       .number = *last_move + 1};
  Batch batch;
  batch.put_record(Family::kModels, owner->name, *owner);
  batch.put_record(Family::kAliasMoves, numbered_key(moves_of(question.model, question.alias), move.number), move);
  batch.tell({.subject = msg::Subject::kModel, .key = question.model});
  if (auto done = store_.commit(std::move(batch)); !done) return std::unexpected(std::move(done).error());
  return owner;
}

Result<std::vector<AliasMove>> Catalog::list_alias_moves(const msg::ListAliasMoves& question) const {
  if (auto owner = model(question.model); !owner) return std::unexpected(std::move(owner).error());
  if (question.alias.empty()) return moves_of_all(question);
  if (auto named = check_name("alias", question.alias); !named) return std::unexpected(named.error());

  PageMeter page(page_size(question.limit));
  std::vector<AliasMove> found;
  bool more = true;
  const std::string name = moves_of(question.model, question.alias);
  const std::string end = question.before == 0 ? end_key(name) : numbered_key(name, question.before);
  auto scanned = store_.scan_records_back<AliasMove>(Family::kAliasMoves, first_key(name), end,
                                                     [&](auto, AliasMove move) -> Result<bool> {
                                                       found.push_back(std::move(move));
                                                       return more = page.count(found.back());
                                                     });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  if (!more) return found;
  auto earlier = unsorted_moves(store_, question.model, question.alias);
  if (!earlier) return std::unexpected(std::move(earlier).error());
  for (auto move = earlier->rbegin(); move != earlier->rend() && more; ++move) {
    if (question.before != 0 && move->number >= question.before) continue;
    found.push_back(std::move(*move));
    more = page.count(found.back());
  }
  return found;
}

// They lie by alias, so the newest ones are sought among all.
Result<std::vector<AliasMove>> Catalog::moves_of_all(const msg::ListAliasMoves& question) const {
  if (question.before != 0) return fail(Code::kInvalidArgument, "moves before a number, of no alias");
  const std::size_t limit = question.limit == 0 ? kMaxPage : page_size(question.limit);
  std::vector<AliasMove> found;
  const auto older = [](const AliasMove& a, const AliasMove& b) { return a.at_ms < b.at_ms; };
  const auto keep_newest = [&] {
    std::ranges::stable_sort(found, older);
    if (found.size() > limit) found.erase(found.begin(), found.end() - static_cast<std::ptrdiff_t>(limit));
  };
  auto scanned = store_.scan_records<AliasMove>(Family::kAliasMoves, first_key(question.model), end_key(question.model),
                                                [&](auto, AliasMove move) -> Result<bool> {
                                                  found.push_back(std::move(move));
                                                  if (found.size() >= 2 * limit + kMaxPage) keep_newest();
                                                  return true;
                                                });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  keep_newest();
  return found;
}

// --- chunks ---

Result<void> Catalog::collect_lasting_chunks(DigestSet& chunks) const {
  auto done = collect<Dataset>(store_, Family::kDatasets, chunks);
  if (done) done = collect<Version>(store_, Family::kVersions, chunks);
  if (!done) return done;
  return store_.scan_later_families([&](auto, std::string_view value) -> Result<bool> {
    add_possible_digests(value, chunks);
    return true;
  });
}

Result<void> Catalog::collect_checkpoint_chunks(DigestSet& chunks) const {
  return collect<Checkpoint>(store_, Family::kCheckpoints, chunks);
}

Result<DigestSet> Catalog::collect_chunks() const {
  DigestSet chunks;
  auto done = collect_lasting_chunks(chunks);
  if (done) done = collect_checkpoint_chunks(chunks);
  if (!done) return std::unexpected(std::move(done).error());
  return chunks;
}

}  // namespace slipway::registry

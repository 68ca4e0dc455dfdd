// Data sets, models, versions and aliases. No thread or clock in here; the store is the only state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/chunk_store.h"
#include "services/registry/quarantine_book.h"
#include "services/registry/repeat_marks.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

inline constexpr std::uint32_t kDefaultPage = 100;
inline constexpr std::uint32_t kMaxPage = 1'000;

inline constexpr std::size_t kMaxAliases = 256;  // of one model

// What a listing's `limit` means: 0 is kDefaultPage, more than kMaxPage is kMaxPage.
[[nodiscard]] std::uint32_t page_size(std::uint32_t limit);

// Every write is one commit. Besides the codes named, everything may answer what RocksStore does: kDataLoss for the one
// record that was asked for and cannot be read; lists leave such records out.
// Life: must not outlive the store. Threads: writes from the writer only; what is const from any thread.
class Catalog {
 public:
  explicit Catalog(RocksStore& store) : store_(store), quarantines_(store), marks_(store) {}

  // Keeps a data set as dataset::inspect described it, its files' chunks filled in, as the next version of its name; or
  // finds the version of that name with the same digest. Errors: kInvalidArgument (name, actor).
  [[nodiscard]] Result<msg::DatasetStored> commit_dataset(Dataset described, std::int64_t now_ms);

  // Version 0: the newest. Errors: kNotFound.
  [[nodiscard]] Result<Dataset> dataset(const std::string& name, std::uint64_t version) const;

  // Without the files' chunks. Errors: kNotFound (a name without data sets).
  [[nodiscard]] Result<std::vector<Dataset>> list_datasets(const msg::ListDatasets& question) const;

  // Gives `version` the next number of its model and adds it to `batch`, with the model's record; the caller commits.
  [[nodiscard]] Result<Version> add_version(Batch& batch, Version version, std::int64_t now_ms) const;

  // A version made elsewhere. An upload that has become a version already answers that one, for a day; `files` are the
  // upload's, and their error counts only when this is no repeat. Errors: kInvalidArgument (name, signature, actor; a
  // file that is quarantined), kTooLarge (signature), kConflict (the upload has become another model's version).
  [[nodiscard]] Result<Version> commit_version(const msg::CommitVersion& question,
                                               Result<std::vector<StoredFile>> files, std::int64_t now_ms);

  // `quarantined` is filled. Errors: kNotFound (model, version or alias).
  [[nodiscard]] Result<Version> version(const msg::GetVersion& question) const;
  [[nodiscard]] Result<std::vector<Version>> list_versions(const msg::ListVersions& question) const;  // without chunks
  [[nodiscard]] Result<Model> model(const std::string& name) const;
  [[nodiscard]] Result<std::vector<Model>> list_models(const msg::ListModels& question) const;

  // Errors: kInvalidArgument (alias name, texts), kNotFound (model, version, or nothing to delete), kConflict (the
  // alias is not at the version expected; the message says where it is), kTooLarge (kMaxAliases).
  [[nodiscard]] Result<Model> move_alias(const msg::MoveAlias& question, std::int64_t now_ms);

  // Whether inferencers are to have the model's versions in memory. Said twice it is no write.
  // Errors: kInvalidArgument (actor), kNotFound (model).
  [[nodiscard]] Result<Model> set_serving(const msg::SetServing& question, std::int64_t now_ms);

  // Of one alias: its moves from the newest back, those before number `before`, numbered from 1 per alias also where
  // they were written before moves were. Of all aliases: the newest ones, at most `limit`, oldest first.
  // Errors: kNotFound (model), kInvalidArgument (`before` without an alias; an alias' name).
  [[nodiscard]] Result<std::vector<AliasMove>> list_alias_moves(const msg::ListAliasMoves& question) const;

  // The chunks that data sets, versions and checkpoints are made of. Of records that cannot be read, and of what a
  // later release has made, everything that may be a digest counts.
  [[nodiscard]] Result<DigestSet> collect_chunks() const;
  // The two parts of it: what stays, and checkpoints, which soon give way to others.
  [[nodiscard]] Result<void> collect_lasting_chunks(DigestSet& chunks) const;
  [[nodiscard]] Result<void> collect_checkpoint_chunks(DigestSet& chunks) const;

 private:
  [[nodiscard]] Result<std::vector<AliasMove>> moves_of_all(const msg::ListAliasMoves& question) const;

  RocksStore& store_;
  QuarantineBook quarantines_;
  RepeatMarks marks_;
};

// Errors: kInvalidArgument (no inputs, no outputs), kTooLarge (over kMaxSignatureBytes when encoded).
inline constexpr std::size_t kMaxSignatureBytes = 1 << 20;
[[nodiscard]] Result<void> check_signature(const Signature& signature);

}  // namespace slipway::registry

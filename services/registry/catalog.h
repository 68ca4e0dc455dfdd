// Data sets, models, versions and aliases. No thread or clock in here; the store is the only state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "schema/messages.h"
#include "services/registry/chunk_store.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

inline constexpr std::uint32_t kDefaultPage = 100;
inline constexpr std::uint32_t kMaxPage = 1'000;

// What a listing's `limit` means: 0 is kDefaultPage, more than kMaxPage is kMaxPage.
[[nodiscard]] std::uint32_t page_size(std::uint32_t limit);

// Every write is one commit. Besides the codes named, everything may answer what RocksStore does.
// Life: must not outlive the store. Threads: not thread-safe, owned by the writer, but for collect_chunks.
class Catalog {
 public:
  explicit Catalog(RocksStore& store) : store_(store) {}

  // Keeps a data set as dataset::inspect described it, its files' chunks filled in, as the next version of its name; or
  // finds the version of that name with the same digest. Errors: kInvalidArgument (name).
  [[nodiscard]] Result<msg::DatasetStored> commit_dataset(Dataset described, std::int64_t now_ms);

  // Version 0: the newest. Errors: kNotFound.
  [[nodiscard]] Result<Dataset> dataset(const std::string& name, std::uint64_t version) const;

  // Without the files' chunks. Errors: kNotFound (a name without data sets).
  [[nodiscard]] Result<std::vector<Dataset>> list_datasets(const msg::ListDatasets& question) const;

  // Gives `version` the next number of its model and adds it to `batch`, with the model's record; the caller commits.
  [[nodiscard]] Result<Version> add_version(Batch& batch, Version version, std::int64_t now_ms) const;

  // A version made elsewhere. Errors: kInvalidArgument (name, signature, actor).
  [[nodiscard]] Result<Version> commit_version(const msg::CommitVersion& question, std::vector<StoredFile> files,
                                               std::int64_t now_ms);

  // Errors: kNotFound (model, version or alias).
  [[nodiscard]] Result<Version> version(const msg::GetVersion& question) const;
  [[nodiscard]] Result<std::vector<Version>> list_versions(const msg::ListVersions& question) const;  // without chunks
  [[nodiscard]] Result<Model> model(const std::string& name) const;
  [[nodiscard]] Result<std::vector<Model>> list_models(const msg::ListModels& question) const;

  // Errors: kInvalidArgument (alias name, texts), kNotFound (model, version, or nothing to delete), kConflict (the
  // alias is not at the version expected; the message says where it is).
  [[nodiscard]] Result<Model> move_alias(const msg::MoveAlias& question, std::int64_t now_ms);

  // The newest kMaxPage moves, oldest first. Errors: kNotFound (model).
  [[nodiscard]] Result<std::vector<AliasMove>> list_alias_moves(const std::string& model) const;

  // The chunks that data sets, versions and checkpoints are made of. Any thread.
  [[nodiscard]] Result<DigestSet> collect_chunks() const;

 private:
  RocksStore& store_;
};

// Errors: kInvalidArgument (no inputs, no outputs).
[[nodiscard]] Result<void> check_signature(const Signature& signature);

}  // namespace slipway::registry

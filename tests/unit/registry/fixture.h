// A folder that is there for one test, and a store, catalog and job book in it that can be closed and opened again.
#pragma once

#include <gmock/gmock.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/sha256.h"
#include "services/registry/catalog.h"
#include "services/registry/job_book.h"
#include "services/registry/names.h"
#include "services/registry/rocks_store.h"

namespace slipway::registry {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "slipway-registry-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

inline StoredFile stored_file(const std::string& name, const std::string& content) {
  return {.name = name, .size_bytes = content.size(), .digest = sha256(content), .chunks = {sha256(content)}};
}

inline Signature some_signature() {
  Signature signature;
  signature.inputs.push_back({.name = "x", .dtype = DType::kF32, .shape = {-1, 4}});
  signature.outputs.push_back({.name = "y", .dtype = DType::kF32, .shape = {-1, 1}});
  return signature;
}

class StoreTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }

  // As after a restart.
  void reopen() {
    jobs_.reset();
    catalog_.reset();
    store_.reset();
    auto opened = RocksStore::open(folder_.path() / "db", {});
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
    changes_.clear();
    store_->on_commit(
        [this](const auto& changes, auto) { changes_.insert(changes_.end(), changes.begin(), changes.end()); });
    catalog_.emplace(*store_);
    jobs_.emplace(*store_, *catalog_, limits_);
    ASSERT_TRUE(jobs_->load(now()));
  }

  [[nodiscard]] Now now() const {
    return {.steady = LeaseTable::TimePoint() + clock_, .unix_ms = 1'000 + clock_.count()};
  }

  void put_dataset(const std::string& name, const std::string& content = "content") {
    Dataset dataset;
    dataset.name = name;
    dataset.digest = sha256(content);
    dataset.format = "csv";
    dataset.rows = 3;
    dataset.files.push_back(stored_file("a.csv", content));
    ASSERT_TRUE(catalog_->commit_dataset(dataset, now().unix_ms));
  }

  Folder folder_;
  std::chrono::milliseconds clock_{0};
  // Puts bytes under a key that no release has written.
  void damage(Family family, const std::string& key, const std::string& bytes = "not a record at all....") {
    Batch batch;
    batch.put(family, key, bytes);
    ASSERT_TRUE(store_->commit(std::move(batch)));
  }
  [[nodiscard]] std::vector<std::string> unreadable() const {
    std::vector<std::string> keys;
    for (const auto& item : store_->unreadable().list(0).items) keys.push_back(item.family + " " + item.key);
    return keys;
  }

  JobLimits limits_{.lease = std::chrono::milliseconds(1'000), .max_progress_events = 3, .max_checkpoint_events = 3};
  std::unique_ptr<RocksStore> store_;
  std::optional<Catalog> catalog_;
  std::optional<JobBook> jobs_;
  std::vector<msg::Changed> changes_;
};

}  // namespace slipway::registry

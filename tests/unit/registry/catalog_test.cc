#include "services/registry/catalog.h"

#include <format>

#include "lib/wire/page.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using testing::HasSubstr;

class CatalogTest : public StoreTest {
 protected:
  Result<Version> upload(const std::string& model) {
    return catalog_->commit_version({.upload = {}, .model = model, .signature = some_signature(), .actor = "ann"},
                                    std::vector{stored_file("model.pt", "bytes")}, now().unix_ms);
  }
  Result<Model> move(std::uint64_t to, std::optional<std::uint64_t> expected = {}, const std::string& alias = "prod") {
    return catalog_->move_alias({.model = "m",
                                 .alias = alias,
                                 .to = to,
                                 .check_expected = expected.has_value(),
                                 .expected = expected.value_or(0),
                                 .reason = "why",
                                 .actor = "ann"},
                                now().unix_ms);
  }
};

TEST_F(CatalogTest, NumbersVersionsOfADatasetAndKnowsTheSameContent) {
  Dataset described;
  described.name = "digits";
  described.digest = sha256("1");
  described.files.push_back(stored_file("a.csv", "1"));
  const auto first = catalog_->commit_dataset(described, 5).value();
  EXPECT_TRUE(first.created);
  EXPECT_EQ(first.dataset.version, 1U);
  EXPECT_EQ(first.dataset.created_ms, 5);
  reopen();
  const auto again = catalog_->commit_dataset(described, 6).value();
  EXPECT_FALSE(again.created);
  EXPECT_EQ(again.dataset, first.dataset);
  described.digest = sha256("2");
  EXPECT_EQ(catalog_->commit_dataset(described, 7)->dataset.version, 2U);
  EXPECT_EQ(catalog_->dataset("digits", 0)->version, 2U);
  EXPECT_EQ(catalog_->dataset("digits", 1).value(), first.dataset);
  EXPECT_EQ(catalog_->dataset("digits", 3).error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->dataset("other", 0).error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->dataset("../x", 0).error().code, Code::kInvalidArgument);
  described.name = "no/name";
  EXPECT_EQ(catalog_->commit_dataset(described, 7).error().code, Code::kInvalidArgument);
}

TEST_F(CatalogTest, ListsTheNewestOfEachDatasetInPages) {
  for (const char* name : {"a", "a-b", "a0", "b"}) put_dataset(name, "1");
  put_dataset("a", "2");
  const auto all = catalog_->list_datasets({}).value();
  ASSERT_EQ(all.size(), 4U);
  EXPECT_TRUE(all[0].files.at(0).chunks.empty());

  std::vector<std::string> names;
  std::string after;
  for (;;) {
    const auto page = catalog_->list_datasets({.name = {}, .after = after, .limit = 1}).value();
    if (page.empty()) break;
    names.push_back(page.at(0).name);
    EXPECT_EQ(page[0].version, page[0].name == "a" ? 2U : 1U);
    after = names.back();
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("a", "a-b", "a0", "b"));
  EXPECT_EQ(catalog_->list_datasets({.name = "a", .after = {}})->size(), 2U);
  const auto rest = catalog_->list_datasets({.name = "a", .after = {}, .limit = 1, .after_version = 1}).value();
  ASSERT_EQ(rest.size(), 1U);
  EXPECT_EQ(rest[0].version, 2U);
  EXPECT_THAT(catalog_->list_datasets({.name = "a", .after = {}, .after_version = 2}).value(), testing::IsEmpty());
  EXPECT_EQ(catalog_->list_datasets({.name = "none", .after = {}}).error().code, Code::kNotFound);
}

TEST_F(CatalogTest, EndsAPageThatGrowsTooLargeForOneMessage) {
  constexpr std::uint64_t kVersions = 8;
  Signature signature = some_signature();
  signature.classes.assign(1, std::string(600'000, 'c'));
  for (std::uint64_t i = 0; i < kVersions; ++i) {
    ASSERT_TRUE(catalog_->commit_version({.upload = {}, .model = "m", .signature = signature, .actor = {}},
                                         std::vector{stored_file("model.pt", "bytes")}, 0));
  }
  std::vector<std::uint64_t> numbers;
  for (bool more = true; more;) {
    const auto page =
        catalog_->list_versions({.model = "m", .after = numbers.empty() ? 0 : numbers.back(), .limit = 100}).value();
    const auto sent = decode(encode({.request_id = {}, .body = msg::Versions{.items = page}}).bytes());
    ASSERT_TRUE(sent) << sent.error().message;
    ASSERT_TRUE(std::holds_alternative<msg::Versions>(sent->body));
    for (const Version& version : page) numbers.push_back(version.number);
    more = may_have_next(page, 100);
  }
  EXPECT_THAT(numbers, testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST_F(CatalogTest, LeavesColumnsOutOfLists) {
  Dataset described;
  described.name = "d";
  described.digest = sha256("1");
  described.columns.resize(3);
  ASSERT_TRUE(catalog_->commit_dataset(described, 0));
  EXPECT_TRUE(catalog_->list_datasets({})->at(0).columns.empty());
  EXPECT_TRUE(catalog_->list_datasets({.name = "d", .after = {}})->at(0).columns.empty());
  EXPECT_EQ(catalog_->dataset("d", 0)->columns.size(), 3U);
}

TEST_F(CatalogTest, NumbersUploadedVersionsDenselyAcrossRestarts) {
  EXPECT_EQ(upload("m")->number, 1U);
  reopen();
  const auto second = upload("m").value();
  EXPECT_EQ(second.number, 2U);
  EXPECT_TRUE(second.uploaded);
  EXPECT_TRUE(second.lineage.job.empty());
  EXPECT_EQ(upload("n")->number, 1U);
  EXPECT_EQ(catalog_->model("m")->latest, 2U);
  EXPECT_EQ(catalog_->version({.model = "m", .alias = {}}).value(), second);
  EXPECT_EQ(catalog_->version({.model = "m", .version = 1, .alias = {}})->number, 1U);
  EXPECT_EQ(catalog_->list_versions({.model = "m"})->size(), 2U);
  EXPECT_EQ(catalog_->list_versions({.model = "m", .after = 1})->at(0).number, 2U);
  EXPECT_EQ(catalog_->list_models({.after = {}})->size(), 2U);
  EXPECT_EQ(catalog_->list_models({.after = "m"})->at(0).name, "n");

  EXPECT_EQ(catalog_->version({.model = "m", .version = 3, .alias = {}}).error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->version({.model = "x", .alias = {}}).error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->model("x").error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->list_versions({.model = "x"}).error().code, Code::kNotFound);
}

TEST_F(CatalogTest, RefusesAVersionWithoutNameOrSignature) {
  EXPECT_EQ(upload("no/name").error().code, Code::kInvalidArgument);
  const auto version = catalog_->commit_version({.upload = {}, .model = "m", .signature = {}, .actor = {}},
                                                std::vector<StoredFile>{}, 0);
  EXPECT_EQ(version.error().code, Code::kInvalidArgument);
  EXPECT_EQ(store_->revision(), 0U);
}

TEST_F(CatalogTest, MovesAnAliasOnlyFromWhereItIsExpected) {
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(upload("m"));
  EXPECT_EQ(move(1, 0)->aliases, (std::vector<Alias>{{"prod", 1}}));
  const auto conflict = move(2, 0);
  ASSERT_FALSE(conflict);
  EXPECT_EQ(conflict.error().code, Code::kConflict);
  EXPECT_THAT(conflict.error().message, HasSubstr("is at version 1, expected not set"));
  EXPECT_EQ(move(2, 1)->aliases.at(0).version, 2U);
  EXPECT_EQ(catalog_->version({.model = "m", .alias = "prod"})->number, 2U);
  EXPECT_EQ(catalog_->version({.model = "m", .alias = "none"}).error().code, Code::kNotFound);

  EXPECT_EQ(move(3).error().code, Code::kNotFound);
  EXPECT_EQ(move(0, {}, "none").error().code, Code::kNotFound);
  EXPECT_EQ(move(1, {}, "a/b").error().code, Code::kInvalidArgument);
  EXPECT_EQ(catalog_->move_alias({.model = "x", .alias = "a", .to = 1, .reason = {}, .actor = {}}, 0).error().code,
            Code::kNotFound);
  EXPECT_TRUE(move(0)->aliases.empty());
}

TEST_F(CatalogTest, KeepsWhoUnloadedAModelAndPublishesOn) {
  ASSERT_TRUE(upload("m"));
  EXPECT_FALSE(catalog_->model("m")->unloaded) << "served until somebody says otherwise";
  const auto revision = store_->revision();
  ASSERT_TRUE(catalog_->set_serving({.model = "m", .served = true, .actor = "ann"}, 5));
  EXPECT_EQ(store_->revision(), revision) << "it was so already";
  EXPECT_EQ(catalog_->model("m")->serving_actor, "");

  ASSERT_TRUE(catalog_->set_serving({.model = "m", .served = false, .actor = "ann"}, 6));
  EXPECT_EQ(store_->revision(), revision + 1);
  reopen();
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(move(2));
  const auto unloaded = catalog_->model("m").value();
  EXPECT_TRUE(unloaded.unloaded);
  EXPECT_EQ(unloaded.serving_actor, "ann");
  EXPECT_EQ(unloaded.serving_at_ms, 6);
  EXPECT_EQ(unloaded.latest, 2U);

  EXPECT_FALSE(catalog_->set_serving({.model = "m", .served = true, .actor = "ben"}, 7)->unloaded);
  EXPECT_EQ(catalog_->set_serving({.model = "x", .served = true, .actor = {}}, 7).error().code, Code::kNotFound);
  EXPECT_EQ(catalog_->set_serving({.model = "m", .served = false, .actor = "a\x1b"}, 7).error().code,
            Code::kInvalidArgument);
}

TEST_F(CatalogTest, AnAliasIsNoWordThatAlreadyMeansAVersion) {
  ASSERT_TRUE(upload("m"));
  for (const char* word : {"1", "007", "latest"}) EXPECT_EQ(move(1, {}, word).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(move(1, {}, "v1"));
}

TEST_F(CatalogTest, RecordsEveryMoveOfAnAlias) {
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(move(1));
  const auto revision = store_->revision();
  ASSERT_TRUE(move(1));  // it is there already
  EXPECT_EQ(store_->revision(), revision);
  ASSERT_TRUE(move(0));
  reopen();
  const auto moves = catalog_->list_alias_moves({.model = "m"}).value();
  ASSERT_EQ(moves.size(), 2U);
  EXPECT_EQ(moves[0], (AliasMove{.model = "m",
                                 .alias = "prod",
                                 .from = 0,
                                 .to = 1,
                                 .reason = "why",
                                 .actor = "ann",
                                 .at_ms = now().unix_ms,
                                 .number = 1}));
  EXPECT_EQ(moves[1].from, 1U);
  EXPECT_EQ(moves[1].to, 0U);
  EXPECT_EQ(catalog_->list_alias_moves({.model = "x"}).error().code, Code::kNotFound);
}

TEST_F(CatalogTest, FindsTheMovesOfAnAliasBehindThoseOfOthers) {
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(move(1));
  Batch others;  // as 1,001 moves of another alias leave them
  for (std::uint64_t i = 1; i <= 1'001; ++i) {
    others.put_record(Family::kAliasMoves, numbered_key("m/canary", i),
                      AliasMove{.model = "m",
                                .alias = "canary",
                                .from = i % 2,
                                .to = 1 + i % 2,
                                .reason = {},
                                .actor = {},
                                .at_ms = 5'000,
                                .number = i});
  }
  ASSERT_TRUE(store_->commit(std::move(others)));
  const auto moves = catalog_->list_alias_moves({.model = "m", .alias = "prod"}).value();
  ASSERT_EQ(moves.size(), 1U);
  EXPECT_EQ(moves[0].to, 1U);

  std::uint64_t before = 0;
  std::vector<std::uint64_t> numbers;
  for (;;) {
    const auto page = catalog_->list_alias_moves({.model = "m", .alias = "canary", .before = before, .limit = 400});
    ASSERT_TRUE(page) << page.error().message;
    for (const AliasMove& found : *page) numbers.push_back(found.number);
    if (page->size() < 400) break;
    before = numbers.back();
  }
  ASSERT_EQ(numbers.size(), 1'001U);
  EXPECT_EQ(numbers.front(), 1'001U);
  EXPECT_EQ(numbers.back(), 1U);
  EXPECT_THAT(catalog_->list_alias_moves({.model = "m", .alias = "never"}).value(), testing::IsEmpty());
  EXPECT_EQ(catalog_->list_alias_moves({.model = "m"})->size(), 1'000U);
  EXPECT_EQ(catalog_->list_alias_moves({.model = "m", .before = 3}).error().code, Code::kInvalidArgument);
}

TEST_F(CatalogTest, GoesOnWithTheMovesOfAnEarlierRelease) {
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(upload("m"));
  Batch earlier;  // by model, without numbers
  const auto old = [&](std::uint64_t number, const std::string& alias, std::uint64_t to) {
    earlier.put_record(Family::kAliasMoves, numbered_key("m", number),
                       AliasMove{.model = "m", .alias = alias, .from = 0, .to = to, .reason = {}, .actor = {}});
  };
  old(1, "prod", 1);
  old(2, "canary", 2);
  old(3, "prod", 2);
  ASSERT_TRUE(store_->commit(std::move(earlier)));
  ASSERT_TRUE(move(1));
  const auto numbers = [&](std::uint64_t before, std::uint32_t limit) {
    std::vector<std::uint64_t> found;
    const auto page =
        catalog_->list_alias_moves({.model = "m", .alias = "prod", .before = before, .limit = limit}).value();
    for (const AliasMove& one : page) found.push_back(one.number);
    return found;
  };
  EXPECT_THAT(numbers(0, 0), testing::ElementsAre(3, 2, 1));
  EXPECT_THAT(numbers(3, 1), testing::ElementsAre(2));
  EXPECT_THAT(numbers(2, 1), testing::ElementsAre(1));
  EXPECT_THAT(numbers(1, 1), testing::IsEmpty());
  EXPECT_EQ(catalog_->list_alias_moves({.model = "m"})->size(), 4U);
}

TEST_F(CatalogTest, LimitsTheAliasesOfAModelAndReadsThoseThatAreThere) {
  ASSERT_TRUE(upload("m"));
  Model model = catalog_->model("m").value();
  for (std::size_t i = 0; i < 600; ++i) {
    model.aliases.push_back({.name = std::format("{:a>127}{:03}", "", i).substr(2), .version = 1});
  }
  Batch batch;
  batch.put_record(Family::kModels, "m", model);
  ASSERT_TRUE(store_->commit(std::move(batch)));
  EXPECT_EQ(catalog_->model("m").value(), model);
  EXPECT_EQ(catalog_->list_models({.after = {}})->size(), 1U);
  const auto refused = move(1, {}, "one-more");
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
  EXPECT_THAT(refused.error().message, HasSubstr("600 aliases"));
  model.aliases.resize(kMaxAliases - 1);
  Batch fewer;
  fewer.put_record(Family::kModels, "m", model);
  ASSERT_TRUE(store_->commit(std::move(fewer)));
  EXPECT_EQ(move(1, {}, "one-more")->aliases.size(), kMaxAliases);
  EXPECT_EQ(move(1, {}, "too-many").error().code, Code::kTooLarge);
}

TEST_F(CatalogTest, KnowsAnUploadThatHasBecomeAVersionAfterARestart) {
  const msg::CommitVersion question{
      .upload = UploadId("u1"), .model = "m", .signature = some_signature(), .actor = "ann"};
  const auto first = catalog_->commit_version(question, std::vector{stored_file("model.pt", "bytes")}, 1'000);
  ASSERT_TRUE(first) << first.error().message;
  reopen();
  EXPECT_EQ(catalog_->commit_version(question, fail(Code::kUnavailable, "no upload"), 2'000).value(), *first);
  EXPECT_EQ(catalog_->model("m")->latest, 1U);
  auto other = question;
  other.model = "n";
  EXPECT_EQ(catalog_->commit_version(other, fail(Code::kUnavailable, "no upload"), 2'000).error().code,
            Code::kConflict);
  // A day later it is forgotten, and takes no revision with it.
  clock_ = std::chrono::hours(24);
  const auto revision = store_->revision();
  ASSERT_TRUE(jobs_->purge_marks(now()));
  EXPECT_EQ(store_->revision(), revision);
  EXPECT_EQ(catalog_->commit_version(question, fail(Code::kUnavailable, "no upload"), 2'000).error().code,
            Code::kUnavailable);
}

TEST_F(CatalogTest, SetsAsideWhatItCannotRead) {
  put_dataset("a", "1");
  put_dataset("a", "2");
  put_dataset("b", "3");
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(upload("m"));
  ASSERT_TRUE(upload("n"));
  ASSERT_TRUE(move(1));
  ASSERT_TRUE(move(2));
  damage(Family::kDatasets, numbered_key("a", 2));
  damage(Family::kVersions, numbered_key("m", 2));
  damage(Family::kModels, "n");
  damage(Family::kAliasMoves, numbered_key("m/prod", 1));
  reopen();

  const auto newest = catalog_->list_datasets({}).value();
  ASSERT_EQ(newest.size(), 2U);
  EXPECT_EQ(newest[0].version, 1U);
  EXPECT_EQ(catalog_->list_datasets({.name = "a", .after = {}})->size(), 1U);
  const auto lost = catalog_->dataset("a", 0);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::kDataLoss);
  EXPECT_THAT(lost.error().message, HasSubstr(numbered_key("a", 2)));
  put_dataset("a", "4");
  EXPECT_EQ(catalog_->dataset("a", 0)->version, 3U);

  EXPECT_EQ(catalog_->list_models({.after = {}})->size(), 1U);
  EXPECT_EQ(catalog_->model("n").error().code, Code::kDataLoss);
  EXPECT_EQ(upload("n").error().code, Code::kDataLoss);
  EXPECT_EQ(catalog_->list_versions({.model = "m"})->size(), 1U);
  EXPECT_EQ(catalog_->version({.model = "m", .version = 2, .alias = {}}).error().code, Code::kDataLoss);
  EXPECT_EQ(upload("m")->number, 3U);
  EXPECT_EQ(catalog_->list_alias_moves({.model = "m", .alias = "prod"})->size(), 1U);
  EXPECT_THAT(unreadable(),
              testing::ElementsAre("alias_moves " + numbered_key("m/prod", 1), "datasets " + numbered_key("a", 2),
                                   "models n", "versions " + numbered_key("m", 2)));
  EXPECT_EQ(store_->unreadable().total(), 4U);
}

TEST_F(CatalogTest, ShowsWhatALaterReleaseHasMade) {
  ASSERT_TRUE(upload("m"));
  Version version = catalog_->version({.model = "m", .version = 1, .alias = {}}).value();
  version.signature.inputs[0].dtype = static_cast<DType>(99);
  Batch batch;
  batch.put_record(Family::kVersions, numbered_key("m", 1), version);
  ASSERT_TRUE(store_->commit(std::move(batch)));
  EXPECT_EQ(catalog_->version({.model = "m", .version = 1, .alias = {}}).value(), version);
  EXPECT_EQ(catalog_->list_versions({.model = "m"})->size(), 1U);
  EXPECT_THAT(unreadable(), testing::ElementsAre("versions " + numbered_key("m", 1)));
}

TEST_F(CatalogTest, KeepsTheChunksThatUnreadableRecordsMayName) {
  for (const auto family : {Family::kDatasets, Family::kVersions, Family::kCheckpoints}) {
    Version version;
    version.model = "m";
    version.files.push_back(stored_file("model.pt", std::to_string(static_cast<int>(family))));
    version.files[0].chunks.push_back(sha256("second"));
    std::string bytes = encode_record(version);
    bytes[0] = '\x7f';  // so many segments
    damage(family, numbered_key("m", 1), bytes);
  }
  const auto chunks = catalog_->collect_chunks().value();
  for (const auto family : {Family::kDatasets, Family::kVersions, Family::kCheckpoints}) {
    EXPECT_TRUE(chunks.contains(sha256(std::to_string(static_cast<int>(family)))));
  }
  EXPECT_TRUE(chunks.contains(sha256("second")));
}

// Each record as large as what may come with it: written, read after a restart, listed, and its chunks known.
TEST_F(CatalogTest, KeepsRecordsAtTheirLimits) {
  constexpr std::size_t kChunks = (64ULL << 30) / kChunkBytes;
  const auto large_file = [&](const std::string& name) {
    StoredFile file{.name = name, .size_bytes = 64ULL << 30, .digest = sha256(name), .chunks = {}};
    for (std::size_t i = 0; i < kChunks; ++i) file.chunks.push_back(sha256(name + std::to_string(i)));
    return file;
  };
  Dataset dataset;
  dataset.name = std::string(128, 'd');
  dataset.digest = sha256("large");
  dataset.files.push_back(large_file("a.csv"));
  for (int i = 0; i < 1'000; ++i) {
    Column column{.name = std::format("{:c>75}", i), .text = true, .categories = {}};
    if (i == 0) {
      for (int value = 0; value < 1'000; ++value) column.categories.push_back(std::format("{:v>1000}", value));
    }
    dataset.columns.push_back(std::move(column));
  }
  const auto stored = catalog_->commit_dataset(dataset, 0);
  ASSERT_TRUE(stored) << stored.error().message;

  Signature signature = some_signature();
  for (int i = 0; i < 10'000; ++i) signature.classes.push_back(std::format("{:n>60}", i));
  const auto version =
      catalog_->commit_version({.upload = {}, .model = "m", .signature = signature, .actor = std::string(256, 'a')},
                               std::vector{large_file("model.pt")}, 0);
  ASSERT_TRUE(version) << version.error().message;
  for (std::size_t i = 0; i < kMaxAliases; ++i) {
    ASSERT_TRUE(catalog_->move_alias({.model = "m",
                                      .alias = std::format("a{:0>127}", i),
                                      .to = 1,
                                      .reason = std::string(2'000, 'r'),
                                      .actor = std::string(256, 'a')},
                                     0));
  }
  reopen();
  EXPECT_EQ(catalog_->dataset(dataset.name, 0).value(), stored->dataset);
  EXPECT_EQ(catalog_->list_datasets({})->size(), 1U);
  EXPECT_EQ(catalog_->version({.model = "m", .alias = {}}).value(), *version);
  EXPECT_EQ(catalog_->list_versions({.model = "m"})->size(), 1U);
  EXPECT_EQ(catalog_->list_models({.after = {}})->at(0).aliases.size(), kMaxAliases);
  EXPECT_EQ(catalog_->list_alias_moves({.model = "m"})->size(), kMaxAliases);
  EXPECT_EQ(catalog_->collect_chunks()->size(), 2 * kChunks);
  EXPECT_THAT(unreadable(), testing::IsEmpty());

  signature.classes.assign(1, std::string(kMaxSignatureBytes, 'c'));
  EXPECT_EQ(catalog_
                ->commit_version({.upload = {}, .model = "m", .signature = signature, .actor = {}},
                                 std::vector{stored_file("model.pt", "b")}, 0)
                .error()
                .code,
            Code::kTooLarge);
}

TEST_F(CatalogTest, CollectsTheChunksOfEverything) {
  put_dataset("d", "data");
  ASSERT_TRUE(upload("m"));
  EXPECT_EQ(catalog_->collect_chunks().value(), (DigestSet{sha256("data"), sha256("bytes")}));
}

TEST_F(CatalogTest, TellsOfEveryCommitUnderItsRevision) {
  put_dataset("d");
  ASSERT_TRUE(upload("m"));
  ASSERT_EQ(changes_.size(), 2U);
  EXPECT_EQ(changes_[0].revision, 1U);
  EXPECT_EQ(changes_[0].subject, msg::Subject::kDataset);
  EXPECT_EQ(changes_[0].key, "d");
  EXPECT_EQ(changes_[1].revision, 2U);
  EXPECT_EQ(changes_[1].subject, msg::Subject::kModel);
  reopen();
  EXPECT_EQ(store_->revision(), 2U);
}

}  // namespace
}  // namespace slipway::registry

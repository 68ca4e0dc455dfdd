#include "services/registry/catalog.h"

#include "lib/wire/page.h"
#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using testing::HasSubstr;

class CatalogTest : public StoreTest {
 protected:
  Result<Version> upload(const std::string& model) {
    return catalog_->commit_version({.upload = {}, .model = model, .signature = some_signature(), .actor = "ann"},
                                    {stored_file("model.pt", "bytes")}, now().unix_ms);
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
                                         {stored_file("model.pt", "bytes")}, 0));
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
  const auto version = catalog_->commit_version({.upload = {}, .model = "m", .signature = {}, .actor = {}}, {}, 0);
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
  const auto moves = catalog_->list_alias_moves("m").value();
  ASSERT_EQ(moves.size(), 2U);
  EXPECT_EQ(
      moves[0],
      (AliasMove{
          .model = "m", .alias = "prod", .from = 0, .to = 1, .reason = "why", .actor = "ann", .at_ms = now().unix_ms}));
  EXPECT_EQ(moves[1].from, 1U);
  EXPECT_EQ(moves[1].to, 0U);
  EXPECT_EQ(catalog_->list_alias_moves("x").error().code, Code::kNotFound);
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

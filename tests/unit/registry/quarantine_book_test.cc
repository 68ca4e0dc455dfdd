#include "services/registry/quarantine_book.h"

#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class QuarantineBookTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    book_.emplace(*store_);
  }
  Result<Version> upload(const std::string& model, const std::string& content) {
    return catalog_->commit_version({.upload = {}, .model = model, .signature = some_signature(), .actor = {}},
                                    std::vector{stored_file("model.pt", content)}, now().unix_ms);
  }
  Result<bool> put(const std::string& content, const std::string& reason = "it crashed") {
    return book_->put({.digest = sha256(content), .model = "m", .version = 1, .reason = reason}, 7);
  }
  [[nodiscard]] std::string reason(const std::string& model, std::uint64_t version) const {
    return catalog_->version({.model = model, .version = version, .alias = {}})->quarantined;
  }
  std::optional<QuarantineBook> book_;
};

TEST_F(QuarantineBookTest, HoldsEveryVersionWithTheFileUntilItIsLifted) {
  ASSERT_TRUE(upload("m", "bad"));
  ASSERT_TRUE(upload("n", "bad"));
  ASSERT_TRUE(upload("m", "good"));
  changes_.clear();
  EXPECT_TRUE(put("bad").value());
  ASSERT_EQ(changes_.size(), 2U);
  EXPECT_EQ(changes_[0].subject, msg::Subject::kQuarantine);
  EXPECT_EQ(changes_[0].key, to_hex(sha256("bad")));
  EXPECT_EQ(changes_[1].subject, msg::Subject::kModel);
  EXPECT_EQ(changes_[1].key, "m");
  EXPECT_FALSE(put("bad", "again").value());

  reopen();
  book_.emplace(*store_);
  EXPECT_EQ(reason("m", 1), "it crashed");
  EXPECT_EQ(reason("n", 1), "it crashed");
  EXPECT_EQ(reason("m", 2), "");
  EXPECT_EQ(catalog_->list_versions({.model = "m"})->at(0).quarantined, "it crashed");
  const auto refused = upload("k", "bad");
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("it crashed"));
  EXPECT_EQ(book_->list({}).value(),
            (std::vector<Quarantine>{
                {.digest = sha256("bad"), .model = "m", .version = 1, .reason = "it crashed", .at_ms = 7}}));

  auto version = catalog_->version({.model = "n", .version = 1, .alias = {}}).value();
  changes_.clear();
  ASSERT_TRUE(book_->lift(version));
  EXPECT_EQ(version.quarantined, "");
  EXPECT_EQ(reason("m", 1), "");
  EXPECT_EQ(changes_.size(), 3U);  // the file, the model it was found as, and the one it is lifted of
  EXPECT_EQ(book_->lift(version).error().code, Code::kNotFound);
  EXPECT_TRUE(upload("k", "bad"));
}

TEST_F(QuarantineBookTest, ListsInPages) {
  std::vector<Digest> all;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(put(std::to_string(i)));
    all.push_back(sha256(std::to_string(i)));
  }
  std::ranges::sort(all);
  std::vector<Digest> listed;
  for (;;) {
    const auto page = book_->list({.after = listed.empty() ? Digest() : listed.back(), .limit = 2}).value();
    if (page.empty()) break;
    for (const Quarantine& one : page) listed.push_back(one.digest);
  }
  EXPECT_EQ(listed, all);
}

TEST_F(QuarantineBookTest, KeepsABoundedPlainReason) {
  ASSERT_TRUE(put("a", "line\x01 \xff" + std::string(2'000, 'x')));
  const std::string kept = book_->list({})->at(0).reason;
  EXPECT_EQ(kept.size(), QuarantineBook::kMaxReasonBytes);
  EXPECT_TRUE(kept.starts_with("line  ?x"));
  ASSERT_TRUE(put("b", ""));
  EXPECT_EQ(*book_->reason(sha256("b")).value(), "no reason was given");
  EXPECT_EQ(book_->put({.digest = {}, .model = "m", .reason = "r"}, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(book_->put({.digest = sha256("c"), .model = "a/b", .reason = "r"}, 0).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(book_->put({.digest = sha256("c"), .model = {}, .reason = "r"}, 0));
}

TEST_F(QuarantineBookTest, HoldsAlsoWhenItCannotBeRead) {
  ASSERT_TRUE(upload("m", "bad"));
  damage(Family::kMeta, "quarantine/" + to_hex(sha256("bad")));
  EXPECT_NE(reason("m", 1), "");
  EXPECT_EQ(book_->list({})->at(0).digest, sha256("bad"));
  auto version = catalog_->version({.model = "m", .version = 1, .alias = {}}).value();
  ASSERT_TRUE(book_->lift(version));
  EXPECT_EQ(reason("m", 1), "");
  EXPECT_THAT(book_->list({}).value(), IsEmpty());
  EXPECT_THAT(unreadable(), IsEmpty());
}

}  // namespace
}  // namespace slipway::registry

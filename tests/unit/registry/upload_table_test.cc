#include "services/registry/upload_table.h"

#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;

class UploadTableTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = ChunkStore::open(folder_.path(), 0);
    ASSERT_TRUE(opened) << opened.error().message;
    chunks_ = std::move(*opened);
  }
  Folder folder_;
  std::unique_ptr<ChunkStore> chunks_;
  UploadTable::TimePoint now_;
};

TEST_F(UploadTableTest, KeepsPlacesForOwnersWithFewUploads) {
  UploadTable table({.max_open = 6, .max_open_of_all = 8}, *chunks_);
  std::vector<UploadId> gateways;
  for (int i = 0; i < 6; ++i) gateways.push_back(table.open(now_, "gateway").value());
  EXPECT_EQ(table.open(now_, "gateway").error().code, Code::kOverloaded);
  EXPECT_TRUE(table.open(now_, "trainer 1"));
  EXPECT_TRUE(table.open(now_, "trainer 2"));
  EXPECT_EQ(table.open(now_, "trainer 3").error().code, Code::kOverloaded);
  table.set_committed(gateways[0]);
  EXPECT_TRUE(table.open(now_, "trainer 3"));
  for (int i = 1; i < 4; ++i) table.drop(gateways[i]);
  EXPECT_TRUE(table.open(now_, "gateway"));
}

TEST_F(UploadTableTest, HoldsTheChunksOfADroppedUploadWhileItIsUsed) {
  UploadTable table({}, *chunks_);
  const UploadId id = table.open(now_, "a").value();
  auto held = table.use(id, now_).value();
  ASSERT_TRUE(held->add({.upload = id, .file = "f", .last = true}, bytes_of("content")));
  table.drop(id);
  EXPECT_EQ(table.use(id, now_).error().code, Code::kUnavailable);
  DigestSet chunks;
  table.add_chunks(chunks);
  EXPECT_EQ(chunks, DigestSet{sha256("content")});
  held.reset();
  EXPECT_EQ(table.drop_idle(now_), 0U);
  EXPECT_EQ(table.size(), 0U);
}

TEST_F(UploadTableTest, DropsTheOpenUploadsOfAnOwnerWhoStaysAway) {
  UploadTable table({.gone = 4s}, *chunks_);
  const UploadId open = table.open(now_, "a").value();
  const UploadId committed = table.open(now_, "a").value();
  const UploadId other = table.open(now_, "b").value();
  table.set_committed(committed);
  EXPECT_THAT(table.owners(), testing::UnorderedElementsAre("a", "b"));
  for (int second = 0; second < 4; ++second) {
    table.on_unreachable("a", now_ + std::chrono::seconds(second));
    EXPECT_EQ(table.drop_gone(now_ + std::chrono::seconds(second)), 0U);
  }
  table.on_unreachable("a", now_ + 4s);
  EXPECT_EQ(table.drop_gone(now_ + 4s), 1U);
  const auto dropped = table.use(open, now_);
  ASSERT_FALSE(dropped);
  EXPECT_EQ(dropped.error().code, Code::kUnavailable);
  EXPECT_EQ(dropped.error().retry_after, 0ms);
  EXPECT_THAT(dropped.error().message, testing::HasSubstr("send it again"));
  EXPECT_TRUE(table.use(committed, now_));
  EXPECT_TRUE(table.use(other, now_));
}

TEST_F(UploadTableTest, KeepsTheUploadsOfAnOwnerWhoComesBack) {
  UploadTable table({.gone = 4s}, *chunks_);
  const UploadId id = table.open(now_, "a").value();
  for (const auto at : {0s, 1s, 2s, /* three knocks arrive */ 6s, 7s, 8s}) {
    table.on_unreachable("a", now_ + at);
    EXPECT_EQ(table.drop_gone(now_ + at), 0U);
  }
  EXPECT_TRUE(table.use(id, now_));
}

TEST_F(UploadTableTest, TellsAnUploadThatIsNoMoreFromOneThatNeverWas) {
  UploadTable before({}, *chunks_);
  const UploadId old = before.open(now_, "a").value();
  UploadTable table({}, *chunks_);
  const auto unknown = table.use(old, now_);
  EXPECT_EQ(unknown.error().code, Code::kUnavailable);
  EXPECT_EQ(unknown.error().retry_after, 0ms);  // the same part will never be taken again
  EXPECT_EQ(table.use(UploadId("none"), now_).error().code, Code::kNotFound);
  const UploadId dropped = table.open(now_, "a").value();
  table.drop(dropped);
  EXPECT_EQ(table.use(dropped, now_).error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace slipway::registry

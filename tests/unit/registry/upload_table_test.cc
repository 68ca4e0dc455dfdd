#include "services/registry/upload_table.h"

#include "tests/unit/registry/fixture.h"

namespace slipway::registry {
namespace {

TEST(UploadTable, KeepsItsLastPlacesForOwnersWithFewUploads) {
  const Folder folder;
  auto chunks = ChunkStore::open(folder.path(), 0);
  ASSERT_TRUE(chunks) << chunks.error().message;
  UploadTable table({.max_open = 8}, **chunks);
  const UploadTable::TimePoint now;
  std::vector<UploadId> gateways;
  for (int i = 0; i < 6; ++i) gateways.push_back(table.open(now, "gateway").value());
  EXPECT_EQ(table.open(now, "gateway").error().code, Code::kOverloaded);
  EXPECT_TRUE(table.open(now, "trainer 1"));
  EXPECT_TRUE(table.open(now, "trainer 2"));
  EXPECT_EQ(table.open(now, "trainer 2").error().code, Code::kOverloaded);
  table.set_committed(gateways[0]);
  table.set_committed(gateways[1]);
  EXPECT_TRUE(table.open(now, "trainer 2"));
  table.drop(gateways[2]);
  table.drop(gateways[3]);
  EXPECT_TRUE(table.open(now, "gateway"));
}

}  // namespace
}  // namespace slipway::registry

#include "services/registry/chunk_index.h"

#include <gtest/gtest.h>

#include "lib/base/sha256.h"

namespace slipway::registry {
namespace {

std::vector<StoredFile> files_of(const Digest& chunk) {
  StoredFile file;
  file.chunks = {chunk};
  return {file};
}

TEST(ChunkIndex, KeepsWhatACommitAddsUntilASweepThatMustHaveSeenItIsThrough) {
  const Digest chunk = sha256("of a commit that is not in the records when the sweep reads them");
  ChunkIndex index;
  index.add(files_of(chunk));
  index.begin();
  index.finish({});
  EXPECT_TRUE(index.may_name(chunk));
  index.begin();
  EXPECT_TRUE(index.may_name(chunk));
  index.finish({});
  EXPECT_FALSE(index.may_name(chunk));
}

TEST(ChunkIndex, KnowsWhatTheLastSweepFound) {
  ChunkIndex index;
  EXPECT_FALSE(index.ready());
  index.begin();
  index.finish({sha256("a")});
  EXPECT_TRUE(index.ready());
  EXPECT_TRUE(index.may_name(sha256("a")));
  index.begin();  // and is given up
  EXPECT_TRUE(index.may_name(sha256("a")));
  index.begin();
  index.finish({sha256("b")});
  EXPECT_FALSE(index.may_name(sha256("a")));
  EXPECT_TRUE(index.may_name(sha256("b")));
}

}  // namespace
}  // namespace slipway::registry

#include "cli/served_model.h"

#include <gtest/gtest.h>

namespace slipway::cli {
namespace {

using boost::json::parse;

TEST(ServedModel, DecidesForTheLargestScore) {
  const auto decision = decide(parse("[0.1, 0.7, 0.2]"), 3);
  ASSERT_TRUE(decision);
  EXPECT_EQ(decision->index, 1u);
  EXPECT_DOUBLE_EQ(decision->score, 0.7);
}

TEST(ServedModel, ReadsABinaryClassifiersSingleProbability) {
  EXPECT_EQ(decide(parse("[0.75]"), 2)->index, 1u);
  EXPECT_EQ(decide(parse("[0.25]"), 2)->index, 0u);
  EXPECT_DOUBLE_EQ(decide(parse("[0.25]"), 2)->score, 0.75);
  EXPECT_EQ(decide(parse("[0.5]"), 2)->index, 1u);  // as Keras' accuracy counts it
}

TEST(ServedModel, RefusesAnotherNumberOfScores) {
  for (const auto* scores : {"[]", "[1, 2]", "3", "null"}) EXPECT_FALSE(decide(parse(scores), 3)) << scores;
}

TEST(ServedModel, RefusesAnotherNumberOfPredictions) {
  EXPECT_TRUE(predictions_of(parse(R"({"predictions": [[1], [2]]})"), 2));
  EXPECT_FALSE(predictions_of(parse(R"({"predictions": [[1]]})"), 2));
  EXPECT_FALSE(predictions_of(parse("{}"), 0));
}

}  // namespace
}  // namespace slipway::cli

#include "services/registry/answer_budget.h"

#include <gtest/gtest.h>

namespace slipway::registry {
namespace {

using namespace std::chrono_literals;

constexpr AnswerBudget::TimePoint kStart{};

TEST(AnswerBudget, LimitsWhatIsOnItsWayToOneAndToAll) {
  const auto budget = std::make_shared<AnswerBudget>(5, 2);
  auto first = budget->take("a", 1, kStart);
  const auto second = budget->take("a", 1, kStart);
  EXPECT_TRUE(first && second);
  EXPECT_FALSE(budget->take("a", 1, kStart));
  const auto b1 = budget->take("b", 1, kStart);
  const auto b2 = budget->take("b", 1, kStart);
  const auto c1 = budget->take("c", 1, kStart);
  EXPECT_TRUE(b1 && b2 && c1);
  EXPECT_FALSE(budget->take("c", 1, kStart));
  first.reset();
  EXPECT_TRUE(budget->take("c", 1, kStart));
}

TEST(AnswerBudget, GivesEverybodyOneAtATimeHoweverMuchOthersHold) {
  const auto budget = std::make_shared<AnswerBudget>(2, 2);
  const auto held = budget->take("a", 2, kStart);
  const auto one = budget->take("b", 1, kStart);
  EXPECT_TRUE(one);
  EXPECT_FALSE(budget->take("b", 1, kStart));
}

TEST(AnswerBudget, CountsWhatNobodyReadsForItsPeerAlone) {
  const auto budget = std::make_shared<AnswerBudget>(2, 2);
  auto held = budget->take("a", 2, kStart);
  const auto one = budget->take("b", 1, kStart + 1s);
  const auto before = kStart + AnswerBudget::kStale - 1ms;
  EXPECT_FALSE(budget->take("b", 1, before));
  const auto two = budget->take("b", 1, kStart + AnswerBudget::kStale);
  EXPECT_TRUE(two);
  EXPECT_FALSE(budget->take("a", 1, kStart + AnswerBudget::kStale));
  held.reset();  // which takes nothing from the others' count
  const auto a1 = budget->take("a", 1, kStart + AnswerBudget::kStale);
  EXPECT_TRUE(a1);
  EXPECT_FALSE(budget->take("a", 1, kStart + AnswerBudget::kStale));
}

}  // namespace
}  // namespace slipway::registry

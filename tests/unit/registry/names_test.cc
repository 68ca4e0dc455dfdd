#include "services/registry/names.h"

#include <gtest/gtest.h>

namespace slipway::registry {
namespace {

TEST(Names, TakesLettersDigitsAndThreeSigns) {
  for (const std::string& name :
       {std::string("a"), std::string("9"), std::string("Fashion-MNIST_v1.2"), std::string(128, 'x')}) {
    EXPECT_TRUE(check_name("model", name)) << name;
  }
  for (const std::string& name : {std::string(), std::string("-a"), std::string(".a"), std::string("a/b"),
                                  std::string("a b"), std::string("\xff"), std::string("ü"), std::string(129, 'x')}) {
    const auto checked = check_name("model", name);
    ASSERT_FALSE(checked) << name;
    EXPECT_EQ(checked.error().code, Code::kInvalidArgument);
  }
}

TEST(Names, RefusesTextThatIsLongBinaryOrNotUtf8) {
  EXPECT_TRUE(check_text("reason", "grün\nzweite Zeile", 100));
  EXPECT_EQ(check_text("reason", "12345", 4).error().code, Code::kTooLarge);
  EXPECT_EQ(check_text("reason", "a\xff", 4).error().code, Code::kInvalidArgument);
  EXPECT_EQ(check_text("reason", std::string("a\0", 2), 4).error().code, Code::kInvalidArgument);
}

TEST(Names, TakesLineEndsInTextsAndNotInLines) {
  EXPECT_TRUE(check_line("worker id", "pod-1 grün", 100));
  for (const char* text : {"a\nb", "a\tb", "a\n", "a\xff"}) {
    EXPECT_EQ(check_line("worker id", text, 100).error().code, Code::kInvalidArgument) << text;
  }
}

TEST(Names, ReadsJobIdsOnlyAsTheyAreWritten) {
  EXPECT_EQ(job_number(job_id(12)).value(), 12U);
  for (const char* text :
       {"", "job-", "job-0", "job-01", "job--1", "job-1x", "1", "Job-1", "job-99999999999999999999"}) {
    const auto number = job_number(JobId(text));
    ASSERT_FALSE(number) << text;
    EXPECT_EQ(number.error().code, Code::kNotFound);
  }
}

TEST(Names, KeysSortAsNumbersDoAndStayWithTheirName) {
  EXPECT_LT(numbered_key("a", 9), numbered_key("a", 10));
  EXPECT_EQ(number_of(numbered_key("a", 10)), 10U);
  EXPECT_LT(first_key("a"), numbered_key("a", 0));
  EXPECT_LT(numbered_key("a", 1ULL << 63), end_key("a"));
  EXPECT_TRUE(numbered_key("a-b", 1) < first_key("a") || numbered_key("a-b", 1) >= end_key("a"));
  EXPECT_TRUE(numbered_key("a0", 1) < first_key("a") || numbered_key("a0", 1) >= end_key("a"));
}

}  // namespace
}  // namespace slipway::registry

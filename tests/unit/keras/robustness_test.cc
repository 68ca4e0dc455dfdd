// Damaged documents give an answer, whatever it is.
#include <random>

#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

std::string valid_document() {
  const std::string layers =
      layer("Rescaling", R"("scale": [0.5], "offset": 0.0)") + "," + layer("Normalization", R"("axis": [-1])") + "," +
      layer("Conv2D", R"("filters": 4, "kernel_size": [3, 3], "strides": [2, 1], "padding": "same",
                         "kernel_regularizer": "l2")") +
      "," + layer("BatchNormalization", R"("axis": [3])") + "," + layer("MaxPooling2D", R"("pool_size": [2, 2])") +
      "," + layer("Reshape", R"("target_shape": [-1, 4])") + "," + layer("Flatten", "") + "," +
      layer("Dropout", R"("rate": 0.25)") + "," + layer("Dense", R"("units": 10, "activation": "softmax")");
  return job({.dataset = R"({"name": "d", "version": 3, "target": "t", "features": ["a", "b"]})",
              .model = sequential("16, 16, 1", layers),
              .callbacks = R"([{"class_name": "ReduceLROnPlateau", "config": {"factor": 0.5, "patience": 2}},
                               {"class_name": "EarlyStopping", "config": {"monitor": "val_accuracy"}}])",
              .more = R"(, "seed": 7)"});
}

TEST(Robustness, EveryTruncationIsRefused) {
  const std::string document = valid_document();
  ASSERT_TRUE(parse_job(document)) << parse_job(document).error().message;
  for (std::size_t size = 0; size < document.size(); ++size) {
    const auto spec = parse_job(std::string_view(document).substr(0, size));
    ASSERT_FALSE(spec) << size;
    EXPECT_EQ(spec.error().code, Code::kInvalidArgument);
  }
}

TEST(Robustness, ChangedBytesGiveAnAnswer) {
  const std::string document = valid_document();
  std::mt19937 random(20240607);
  // Half of the changes stay with what JSON is made of: they reach deeper.
  constexpr std::string_view kMarks = "0123456789-.eE{}[],:\" nulltruefalse";
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string changed = document;
    for (std::uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      changed[random() % changed.size()] =
          round % 2 == 0 ? static_cast<char>(random() % 256) : kMarks[random() % kMarks.size()];
    }
    const auto spec = parse_job(changed);
    if (spec) continue;
    ++refused;
    EXPECT_FALSE(spec.error().path.empty());
    EXPECT_FALSE(spec.error().message.empty());
    EXPECT_LT(spec.error().message.size(), 1000U);
  }
  EXPECT_GT(refused, 2000);
}

TEST(Robustness, SwappedValuesGiveAnAnswer) {
  const std::string document = valid_document();
  std::mt19937 random(7);
  const std::vector<std::string> values{
      "null", "true",   "-1",    "0",          "1e308",    "9223372036854775807",        "[]", "{}",
      "\"\"", "[null]", "[[1]]", "2147483648", "\"relu\"", "{\"class_name\": \"Dense\"}"};
  // The places of all values: after each colon.
  for (std::size_t at = document.find(": "); at != std::string::npos; at = document.find(": ", at + 1)) {
    const std::size_t end = document.find_first_of(",}]", at);
    for (const std::string& value : values) {
      (void)parse_job(document.substr(0, at + 2) + value + document.substr(end));
    }
  }
}

TEST(Robustness, MessagesStayValidTextHoweverLongTheInput) {
  std::string name;
  for (int i = 0; i < 1000; ++i) name += "\xc3\xa9";
  const auto spec = parse_job(job({.publish = "{\"model\": \"" + name + "\"}"}));
  ASSERT_FALSE(spec);
  EXPECT_LT(spec.error().message.size(), 300U);
  const auto key = parse_job(job({.more = ", \"" + name + "\": 1"}));
  ASSERT_FALSE(key);
  EXPECT_LT(key.error().path.size(), 120U);
}

}  // namespace
}  // namespace slipway::keras

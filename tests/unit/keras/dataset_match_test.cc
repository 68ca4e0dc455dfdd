#include "tests/unit/keras/documents.h"

namespace slipway::keras {
namespace {

Dataset images(std::uint64_t classes = 10, std::uint64_t rows = 100) {
  Dataset out;
  out.name = "fashion-mnist";
  out.format = "idx";
  out.rows = rows;
  out.row_shape = {28, 28};
  out.dtype = DType::kU8;
  out.classes = classes;
  return out;
}

Column numbers(std::string name, double min, double max, bool integral = false) {
  return {.name = std::move(name), .text = false, .min = min, .max = max, .integral = integral, .categories = {}};
}
Column text(std::string name, std::vector<std::string> categories) {
  return {.name = std::move(name),
          .text = true,
          .min = 0,
          .max = 0,
          .integral = false,
          .categories = std::move(categories)};
}
Dataset table(const Column& target, std::vector<Column> more = {}) {
  Dataset out;
  out.name = "houses";
  out.format = "csv";
  out.rows = 100;
  out.columns = {numbers("a", 0, 1), numbers("b", 0, 1), target};
  out.columns.insert(out.columns.end(), more.begin(), more.end());
  out.row_shape = {static_cast<std::int64_t>(out.columns.size())};
  return out;
}

// A model of two features with this end.
JobSpec of_two(std::string_view units, std::string_view activation, std::string_view loss,
               std::string_view dataset = R"({"name": "houses", "target": "y"})") {
  return accepted(job(
      {.dataset = std::string(dataset),
       .model = sequential("2", layer("Dense", std::format(R"("units": {}, "activation": "{}")", units, activation))),
       .compile = std::format(R"({{"loss": "{}"}})", loss)}));
}
JobSpec sparse(std::string_view units) { return of_two(units, "softmax", "sparse_categorical_crossentropy"); }

void fits(const JobSpec& spec, const Dataset& dataset) {
  const auto result = check_against(spec, dataset);
  EXPECT_TRUE(result) << (result ? "" : result.error().path + ": " + result.error().message);
}
void misfits(const JobSpec& spec, const Dataset& dataset, std::string_view path, std::string_view why) {
  const auto result = check_against(spec, dataset);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Code::kInvalidArgument);
  EXPECT_EQ(result.error().path, path) << result.error().message;
  EXPECT_THAT(result.error().message, testing::HasSubstr(why));
}

TEST(DatasetMatch, RowsMayBeFlatNestedOrHaveAChannelAxis) {
  fits(accepted(job()), images());
  const std::string end = layer("Flatten", "") + "," + layer("Dense", R"("units": 10, "activation": "softmax")");
  fits(accepted(job({.model = sequential("28, 28, 1", end)})), images());
  fits(accepted(job({.model = sequential("784", end)})), images());
  misfits(accepted(job({.model = sequential("32, 32", end)})), images(), "$.model", "[32, 32]");
  misfits(accepted(job({.model = sequential("32, 32", end)})), images(), "$.model", "[28, 28]");
}

TEST(DatasetMatch, ImageLabelsMustBeWithinTheOutputs) {
  misfits(accepted(job()), images(11), "$.compile.loss", "labels up to 10");
  const auto binary = [](std::uint64_t classes) {
    return check_against(
               accepted(job({.model = sequential("784", layer("Dense", R"("units": 1, "activation": "sigmoid")")),
                             .compile = R"({"loss": "bce"})"})),
               images(classes))
        .has_value();
  };
  EXPECT_TRUE(binary(2));
  EXPECT_FALSE(binary(3));
  fits(accepted(job({.model = sequential("784", layer("Dense", R"("units": 1)")), .compile = R"({"loss": "mse"})"})),
       images());
}

TEST(DatasetMatch, ImagesHaveNoColumns) {
  misfits(accepted(job({.dataset = R"({"name": "f", "target": "label"})"})), images(), "$.dataset.target",
          "no columns");
  misfits(accepted(job({.dataset = R"({"name": "f", "features": ["x"]})"})), images(), "$.dataset.features",
          "no columns");
}

TEST(DatasetMatch, ATableNeedsItsTargetNamed) {
  misfits(of_two("1", "linear", "mse", R"("houses")"), table(numbers("y", 0, 50)), "$.dataset.target", "a, b, y");
  misfits(of_two("1", "linear", "mse", R"({"name": "houses", "target": "z"})"), table(numbers("y", 0, 50)),
          "$.dataset.target", "columns: a, b, y");
  fits(of_two("1", "linear", "mse"), table(numbers("y", 0, 50)));
}

TEST(DatasetMatch, FeaturesAreNumbersAndAsManyAsTheModelTakes) {
  const auto with = [](std::string_view features) {
    return of_two("1", "linear", "mse",
                  std::format(R"({{"name": "houses", "target": "y", "features": {}}})", features));
  };
  const Dataset houses = table(numbers("y", 0, 50), {text("street", {"x", "y"})});
  fits(with(R"(["b", "a"])"), houses);
  misfits(with(R"(["a", "c"])"), houses, "$.dataset.features[1]", "no column 'c'");
  misfits(with(R"(["a", "street"])"), houses, "$.dataset.features[1]", "text");
  misfits(with(R"(["a"])"), houses, "$.model", "[1]");
  misfits(of_two("1", "linear", "mse"), houses, "$.dataset", "'street' holds text");
  misfits(of_two("1", "linear", "mse"), table(numbers("y", 0, 50), {numbers("c", 0, 1)}), "$.model", "[3]");
}

TEST(DatasetMatch, ATextTargetNeedsClasses) {
  const Dataset iris = table(text("y", {"s", "v", "w"}));
  fits(sparse("3"), iris);
  fits(of_two("3", "softmax", "categorical_crossentropy"), iris);
  misfits(sparse("2"), iris, "$.compile.loss", "3 different values");
  misfits(of_two("1", "sigmoid", "binary_crossentropy"), iris, "$.compile.loss", "only 2");
  misfits(of_two("1", "linear", "mse"), iris, "$.compile.loss", "holds text");
}

TEST(DatasetMatch, ANumberTargetMustBeWhatTheLossTakes) {
  fits(sparse("3"), table(numbers("y", 0, 2, true)));
  misfits(sparse("3"), table(numbers("y", 0, 3, true)), "$.compile.loss", "0 to 2");
  misfits(sparse("3"), table(numbers("y", -1, 2, true)), "$.compile.loss", "-1");
  misfits(sparse("3"), table(numbers("y", 0, 2, false)), "$.compile.loss", "fractions");
  fits(of_two("1", "sigmoid", "binary_crossentropy"), table(numbers("y", 0, 1)));
  misfits(of_two("1", "sigmoid", "binary_crossentropy"), table(numbers("y", 0, 1.5)), "$.compile.loss", "1.5");
}

TEST(DatasetMatch, TheValidationSplitLeavesBothSidesARow) {
  JobSpec spec = accepted(job());
  spec.fit.validation_split = 0.1;
  fits(spec, images(10, 2));  // floor(2 * 0.9) = 1 to train on
  misfits(spec, images(10, 1), "$.fit.validation_split", "leaves 0 to train on");
  spec.fit.validation_split = 1e-18;  // 1 - 1e-18 is 1
  misfits(spec, images(10, 100), "$.fit.validation_split", "0 to validate with");
  spec.fit.validation_split = 0;
  fits(spec, images(10, 1));
  misfits(spec, images(10, 0), "$.dataset", "no rows");
}

TEST(TrainingRows, AreTheFloorThatPythonComputes) {
  EXPECT_EQ(training_rows(60000, 0.1), 54000U);
  EXPECT_EQ(training_rows(506, 0.2), 404U);
  EXPECT_EQ(training_rows(10, 0.3), 7U);
  EXPECT_EQ(training_rows(10, 0.9), 0U);  // 10 * (1 - 0.9) is 0.99999999999999978
}

}  // namespace
}  // namespace slipway::keras

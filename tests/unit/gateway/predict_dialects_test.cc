#include <gmock/gmock.h>

#include "services/gateway/oip_api.h"
#include "services/gateway/plain_api.h"
#include "services/gateway/predictor.h"
#include "services/gateway/tfs_api.h"

namespace slipway::gateway {
namespace {

using testing::HasSubstr;

Version version(std::vector<TensorSpec> inputs, std::vector<std::string> classes = {}) {
  Version made;
  made.model = "m";
  made.number = 2;
  made.signature.inputs = std::move(inputs);
  made.signature.outputs = {{.name = "y", .dtype = DType::kF32, .shape = {-1, 2}}};
  made.signature.classes = std::move(classes);
  return made;
}
const Version kOne = version({{.name = "x", .dtype = DType::kF32, .shape = {-1, 2}}});
const Version kTwo = version(
    {{.name = "a", .dtype = DType::kF32, .shape = {-1, 2}}, {.name = "b", .dtype = DType::kI64, .shape = {-1}}});

Tensor output(Shape shape, std::vector<float> values, std::string name = "y") {
  return {.spec = {.name = std::move(name), .dtype = DType::kF32, .shape = std::move(shape)},
          .bytes = Frame::of(std::move(values))};
}

TEST(TfsApi, ReadsRowsBareAndNamed) {
  for (const char* body : {R"({"instances":[[1,2],[3,4]]})",
                           R"({"signature_name":"serving_default","instances":[{"x":[1,2]},{"x":[3,4]}]})",
                           R"({"inputs":[[1,2],[3,4]],"other":{"a":[1]}})", R"({"inputs":{"x":[[1,2],[3,4]]}})"}) {
    const auto request = read_tfs_request(body, kOne);
    ASSERT_TRUE(request) << body << request.error().message;
    EXPECT_EQ(request->inputs[0].spec.shape, (Shape{2, 2})) << body;
    EXPECT_TRUE(check_inputs(kOne, request->inputs));
  }
}
TEST(TfsApi, TakesAnExampleFlatOrWithoutItsLastAxisOfOne) {
  Version image = kOne;
  image.signature.inputs[0].shape = {-1, 2, 2, 1};
  for (const char* body : {R"({"instances":[[[[1],[2]],[[3],[4]]]]})", R"({"instances":[[[1,2],[3,4]]]})",
                           R"({"instances":[[1,2,3,4]]})", R"({"inputs":[[1,2,3,4]]})"}) {
    const auto request = read_tfs_request(body, image);
    ASSERT_TRUE(request) << body << request.error().message;
    EXPECT_EQ(request->inputs[0].spec.shape, (Shape{1, 2, 2, 1})) << body;
    EXPECT_TRUE(check_inputs(image, request->inputs));
  }
  for (const char* body :
       {R"({"instances":[[[1,2,3,4]]]})", R"({"instances":[1,2,3,4]})", R"({"instances":[[1,2,3]]})"}) {
    const auto request = read_tfs_request(body, image);
    ASSERT_TRUE(request) << body << request.error().message;
    EXPECT_FALSE(check_inputs(image, request->inputs)) << body;
  }
}
TEST(TfsApi, TakesNanOnlyWhenToldTo) {
  EXPECT_FALSE(read_tfs_request(R"({"instances":[[1,NaN]]})", kOne));
  EXPECT_TRUE(read_tfs_request(R"({"instances":[[1,NaN]]})", kOne, true));
}
TEST(TfsApi, ReadsSeveralInputs) {
  for (const char* body :
       {R"({"instances":[{"a":[1,2],"b":5},{"b":6,"a":[3,4]}]})", R"({"inputs":{"b":[5,6],"a":[[1,2],[3,4]]}})"}) {
    const auto request = read_tfs_request(body, kTwo);
    ASSERT_TRUE(request) << body << request.error().message;
    EXPECT_TRUE(check_inputs(kTwo, request->inputs)) << body;
  }
}
TEST(TfsApi, RefusesWhatIsWrong) {
  const auto message = [](const char* body, const Version& of) {
    const auto request = read_tfs_request(body, of);
    return request ? std::string("taken") : request.error().message;
  };
  EXPECT_EQ(message("", kOne), "JSON Parse error: The document is empty");
  EXPECT_EQ(message("{}", kOne), "Missing 'inputs' or 'instances' key");
  EXPECT_EQ(message(R"({"signature_name":1})", kOne), "'signature_name' key must be a string value.");
  EXPECT_THAT(message(R"({"instances":[1],"inputs":[1]})", kOne), HasSubstr("either"));
  EXPECT_THAT(message(R"({"instances":[{"z":[1,2]}]})", kOne), HasSubstr("no input 'z'"));
  EXPECT_THAT(message(R"({"instances":[{"a":[1,2]}]})", kTwo), HasSubstr("input 'b'"));
  EXPECT_THAT(message(R"({"instances":[[1,2]]})", kTwo), HasSubstr("object"));
  EXPECT_THAT(message(R"({"instances":[[1,2]]}x)", kOne), HasSubstr("byte"));
  EXPECT_THAT(message(R"({"instances":[{"x":[1,2]},{"x":[1]}]})", kOne), HasSubstr("row of shape"));
}
TEST(TfsApi, AnswersInTheFormAsked) {
  EXPECT_EQ(write_tfs_answer({output({2, 2}, {1, 2, 3, 4})}, true).value(), R"({"predictions":[[1.0,2.0],[3.0,4.0]]})");
  EXPECT_EQ(write_tfs_answer({output({2, 2}, {1, 2, 3, 4})}, false).value(), R"({"outputs":[[1.0,2.0],[3.0,4.0]]})");
  EXPECT_EQ(write_tfs_answer({output({1, 1}, {1}, "p"), output({1}, {2}, "q")}, true).value(),
            R"({"predictions":[{"p":[1.0],"q":2.0}]})");
}

TEST(OipApi, ReadsFlatAndNestedDataInAnyOrderOfMembers) {
  for (
      const char* body :
      {R"({"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]})",
       R"({"inputs":[{"data":[[1,2],[3,4]],"datatype":"FP32","shape":[2,2],"name":"x","parameters":{"content_type":"np"}}],"outputs":[{"name":"y"}]})"}) {
    const auto request = read_oip_request(body, kOne);
    ASSERT_TRUE(request) << body << request.error().message;
    EXPECT_EQ(request->inputs[0].spec.shape, (Shape{2, 2}));
  }
}
TEST(OipApi, RefusesInTritonsWords) {
  const auto message = [](std::string inputs, const Version& of = kOne) {
    const auto request = read_oip_request("{\"inputs\":[" + inputs + "]}", of);
    return request ? std::string("taken") : request.error().message;
  };
  EXPECT_THAT(message(""), HasSubstr("expected 1 inputs but got 0 inputs for model 'm'"));
  EXPECT_THAT(message(R"({"name":"x","shape":[1,2],"datatype":"INT8","data":[1,2]})"),
              HasSubstr("data-type is 'INT8', but model 'm' expects 'FP32'"));
  EXPECT_THAT(message(R"({"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2,3]})"),
              HasSubstr("Shape does not match true shape of 'data' field"));
  EXPECT_THAT(
      message(
          R"({"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]},{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]})"),
      HasSubstr("already exists"));
  EXPECT_THAT(message(R"({"name":"x","shape":[1,2],"datatype":"FP32"})"), HasSubstr("no 'data'"));
  EXPECT_THAT(message(R"({"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}})"),
              HasSubstr("binary_data_size"));
}
TEST(OipApi, AnswersFlatWithTheIdOnlyWhenGiven) {
  OipRequest request;
  EXPECT_EQ(
      write_oip_answer(kOne, request, {output({1, 2}, {1, 2})}),
      R"({"model_name":"m","model_version":"2","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]})");
  request.id = "7";
  EXPECT_THAT(write_oip_answer(kOne, request, {output({1, 2}, {1, 2})}), HasSubstr(R"({"id":"7",)"));
}

TEST(PlainApi, ReadsAnImageFlatOrNestedOneOrMany) {
  const Shape wanted{-1, 28, 28};
  const struct {
    Shape given, sent;
    bool batch;
  } cases[] = {{{784}, {1, 28, 28}, false},         {{28, 28}, {1, 28, 28}, false},   {{28, 28, 1}, {1, 28, 28}, false},
               {{1, 28, 28}, {1, 28, 28}, true},    {{5, 28, 28}, {5, 28, 28}, true}, {{5, 784}, {5, 28, 28}, true},
               {{5, 28, 28, 1}, {5, 28, 28}, true}, {{1, 784}, {1, 28, 28}, true}};
  for (const auto& [given, sent, batch] : cases) {
    const auto shape = plain_shape(given, wanted);
    ASSERT_TRUE(shape) << to_string(given);
    EXPECT_EQ(shape->shape, sent) << to_string(given);
    EXPECT_EQ(shape->batch, batch) << to_string(given);
  }
  EXPECT_EQ(plain_shape({28, 28}, {-1, 28, 28, 1})->shape, (Shape{1, 28, 28, 1}));
  EXPECT_EQ(plain_shape({3}, {-1, 1})->shape, (Shape{3, 1}));
  for (const Shape& given : {Shape{783}, Shape{28, 27}, Shape{}, Shape{0}, Shape{2, 392}})
    EXPECT_FALSE(plain_shape(given, wanted)) << to_string(given);
}
TEST(PlainApi, AnswersWithTheLikeliestClass) {
  const Version classifier = version({}, {"cat", "dog"});
  EXPECT_EQ(write_plain_answer(classifier, output({1, 2}, {0.25F, 0.75F}), false).value(),
            R"({"prediction":"dog","probability":"0.7500"})");
  EXPECT_EQ(
      write_plain_answer(classifier, output({2, 2}, {0.75F, 0.25F, 0.0F, 1.0F}), true).value(),
      R"({"predictions":[{"prediction":"cat","probability":"0.7500"},{"prediction":"dog","probability":"1.0000"}]})");
}
TEST(PlainApi, ASigmoidIsClassOneFromAHalfOn) {
  const Version binary = version({}, {"no", "yes"});
  EXPECT_EQ(write_plain_answer(binary, output({1, 1}, {0.5F}), false).value(),
            R"({"prediction":"yes","probability":"0.5000"})");
  EXPECT_EQ(write_plain_answer(binary, output({1, 1}, {0.25F}), false).value(),
            R"({"prediction":"no","probability":"0.7500"})");
}
TEST(PlainApi, AnswersARegressionWithANumber) {
  EXPECT_EQ(write_plain_answer(version({}), output({1, 1}, {24.1F}), false).value(), R"({"prediction":24.1})");
  EXPECT_EQ(
      write_plain_answer(version({}), output({1, 1}, {std::numeric_limits<float>::quiet_NaN()}), false).error().code,
      Code::kInternal);
}
TEST(PlainApi, ReadsABody) {
  const auto body = read_plain_body(R"({"version":3,"input":[[1,2]],"model":"m"})");
  ASSERT_TRUE(body);
  EXPECT_EQ(body->model, "m");
  EXPECT_EQ(body->version, "3");
  EXPECT_EQ(body->input, "[[1,2]]");
  for (const char* bad : {"{}", "[]", "", R"({"input":[1],"imput":1})", R"({"input":[NaN]})", R"({"input":[1]} x)",
                          R"({"input":[1],"input":[2]})"}) {
    EXPECT_FALSE(read_plain_body(bad)) << bad;
  }
}

TEST(CheckOutputs, TakesWhatTheSignatureSaysAndGivesItsNames) {
  std::vector<Tensor> outputs;
  outputs.push_back(output({3, 2}, std::vector<float>(6), "?"));
  ASSERT_TRUE(check_outputs(kOne, outputs, 1000));
  EXPECT_EQ(outputs[0].spec.name, "y");
}
TEST(CheckOutputs, RefusesAnotherShapeDtypeOrNumber) {
  const auto code = [](std::vector<Tensor> outputs) {
    const auto checked = check_outputs(kOne, outputs, 1000);
    return checked ? std::nullopt : std::optional(checked.error().code);
  };
  EXPECT_EQ(code({}), Code::kInternal);
  EXPECT_EQ(code({output({1, 3}, {1, 2, 3})}), Code::kInternal);
  EXPECT_EQ(code({output({2}, {1, 2})}), Code::kInternal);
  EXPECT_EQ(code({output({1, 2}, {1, 2, 3})}), Code::kInternal) << "bytes and shape differ";
  Tensor other = output({1, 2}, {1, 2});
  other.spec.dtype = DType::kI32;
  EXPECT_EQ(code({other}), Code::kInternal);
  other.spec.dtype = static_cast<DType>(99);
  EXPECT_EQ(code({other}), Code::kInternal);
}
TEST(CheckOutputs, RefusesWhatWouldPrintWithoutEnd) {
  Version wide = kOne;
  wide.signature.outputs[0].shape = {-1, 100'000'000, 0};
  std::vector<Tensor> outputs{output({1, 100'000'000, 0}, {})};
  const auto checked = check_outputs(wide, outputs, 1 << 20);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kTooLarge);
}
TEST(PlainApi, ATieIsTheSecondClass) {
  const Version two = version({{.name = "x", .dtype = DType::kF32, .shape = {-1, 2}}}, {"no", "yes"});
  EXPECT_THAT(write_plain_answer(two, output({1, 1}, {0.5F}), false).value(), HasSubstr(R"("yes")"));
}

}  // namespace
}  // namespace slipway::gateway

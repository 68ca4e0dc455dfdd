#include "services/gateway/plain_api.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

// Softmax; of a lone logit the sigmoid.
void to_probabilities(std::vector<double>& logits) {
  if (logits.size() == 1) {
    logits[0] = 1 / (1 + std::exp(-logits[0]));
    return;
  }
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (double& logit : logits) sum += logit = std::exp(logit - largest);
  for (double& logit : logits) logit /= sum;
}

Task<Result<std::string>> only_model(Services& services, std::string request_id) {
  auto names = co_await services.cache.first_names(std::move(request_id));
  if (!names) co_return std::unexpected(names.error());
  if ((*names)->empty()) co_return fail(Code::kNotFound, "there is no model yet");
  if ((*names)->size() == 1) co_return (*names)->front();
  co_return fail_at("$.model", Code::kInvalidArgument,
                    std::format("there are several models, such as '{}' and '{}', so 'model' must name one",
                                (**names)[0], (**names)[1]));
}

// Resolves, builds the input with `fill`, predicts and words the answer.
template <class Fill>
Task<Response> answer(Services& services, Call& call, std::string model, std::string version_text, Fill fill) {
  const auto refuse = [&](const Error& error) { return error_response(error, Dialect::kPlain, call.request); };
  if (model.empty()) {
    auto only = co_await only_model(services, call.request.id);
    if (!only) co_return refuse(only.error());
    model = std::move(*only);
  }
  auto choice = version_choice(version_text);
  if (!choice) co_return refuse(choice.error());
  auto found = co_await services.cache.resolve(std::move(model), std::move(*choice), call.request.id);
  if (!found) co_return refuse(found.error());
  const VersionRef version = *found;
  if (version->signature.inputs.size() != 1) {
    co_return refuse(
        {.code = Code::kInvalidArgument,
         .message = std::format("model '{}' has {} inputs; this call serves models with one, use /v1 or /v2",
                                version->model, version->signature.inputs.size()),
         .path = {}});
  }
  const TensorSpec& wanted = version->signature.inputs.front();
  TensorBuilder builder(wanted.dtype, services.settings.max_tensor_bytes);
  if (Result<void> filled = fill(builder); !filled) co_return refuse(filled.error());
  std::vector<Tensor> inputs(1);
  inputs[0] = builder.finish(wanted.name);
  auto shape = plain_shape(inputs[0].spec.shape, wanted.shape);
  if (!shape) co_return refuse(shape.error());
  inputs[0].spec.shape = std::move(shape->shape);
  auto outputs = co_await predict(services, call, version, std::move(inputs));
  if (!outputs) co_return refuse(outputs.error());
  auto body = write_plain_answer(*version, outputs->front(), shape->batch);
  if (!body) co_return refuse(body.error());
  co_return json_response(200, std::move(*body));
}

Task<Response> answer_post(Services& services, Call& call) {
  auto body = read_plain_body(call.body);
  if (!body) co_return error_response(body.error(), Dialect::kPlain, call.request);
  const std::string_view input = body->input;
  const auto offset = static_cast<std::size_t>(input.data() - call.body.data());
  co_return co_await answer(services, call, std::move(body->model), std::move(body->version),
                            [&call, offset](TensorBuilder& builder) {
                              JsonReader json(call.body);
                              json.seek(offset);  // so that errors name the byte in the body
                              return builder.read(json);
                            });
}

Task<Response> answer_get(Services& services, Call& call) {
  const auto refuse = [&](const Error& error) { return error_response(error, Dialect::kPlain, call.request); };
  auto values = call.request.query_value("values");
  auto model = call.request.query_value("model");
  auto version = call.request.query_value("version");
  if (!values) co_return refuse(values.error());
  if (!model) co_return refuse(model.error());
  if (!version) co_return refuse(version.error());
  if (!*values)
    co_return refuse(
        {.code = Code::kInvalidArgument, .message = "query parameter values is missing: values=0.1,2,...", .path = {}});
  const std::string text = std::move(**values);
  co_return co_await answer(services, call, model->value_or(""), version->value_or(""),
                            [&text](TensorBuilder& builder) -> Result<void> {
                              std::string_view rest = text;
                              for (std::size_t i = 0; true; ++i) {
                                const std::size_t comma = rest.find(',');
                                if (auto taken = builder.append(rest.substr(0, comma)); !taken) {
                                  taken.error().message = std::format("values[{}]: {}", i, taken.error().message);
                                  return taken;
                                }
                                if (comma == std::string_view::npos) return {};
                                rest.remove_prefix(comma + 1);
                              }
                            });
}

}  // namespace

Result<PlainBody> read_plain_body(std::string_view body) {
  JsonReader json(body);
  PlainBody members;
  auto read = json.object([&](const std::string& key) -> Result<void> {
    if (key == "input") {
      auto text = json.skip();
      if (!text) return std::unexpected(text.error());
      if (!members.input.empty()) return fail(Code::kInvalidArgument, "'input' comes twice");
      members.input = *text;
      return {};
    }
    if (key == "model" || key == "version") {
      const bool number = key == "version" && json.peek() != '"';
      auto text = number ? json.number().transform([](std::string_view n) { return std::string(n); }) : json.string();
      if (!text) return std::unexpected(text.error());
      (key == "model" ? members.model : members.version) = std::move(*text);
      return {};
    }
    return fail(Code::kInvalidArgument,
                std::format("unknown member '{}'; there are 'input', 'model' and 'version'", key.substr(0, 40)));
  });
  if (read) read = json.end();
  if (!read) return std::unexpected(read.error());
  if (members.input.empty()) return fail(Code::kInvalidArgument, "'input' is missing: {\"input\": [...]}");
  return members;
}

Result<PlainShape> plain_shape(const Shape& given, const Shape& wanted) {
  const bool batched = !wanted.empty() && wanted.front() < 0;
  const Shape row(wanted.begin() + (batched ? 1 : 0), wanted.end());
  const Shape rest(given.begin() + (given.empty() ? 0 : 1), given.end());
  const auto single = [&](Shape shape) {
    if (batched) shape.insert(shape.begin(), 1);
    return PlainShape{.shape = std::move(shape), .batch = false};
  };
  const auto several = [&](Shape shape) {
    shape.insert(shape.begin(), given.front());
    return PlainShape{.shape = std::move(shape), .batch = true};
  };
  // An exact reading before a lenient one: [1, 28, 28] is a batch of one.
  if (fits(given, row)) return single(given);
  if (batched && !given.empty() && given.front() > 0) {
    if (fits(rest, row)) return several(rest);
    if (auto lenient = as_row(given, row)) return single(std::move(*lenient));
    if (auto lenient = as_row(rest, row)) return several(std::move(*lenient));
  } else if (auto lenient = as_row(given, row)) {
    return single(std::move(*lenient));
  }
  return fail_at("$.input", Code::kInvalidArgument,
                 std::format("an input of shape {} is neither one example of shape {} nor a batch of them",
                             to_string(given), to_string(row)));
}

Result<std::string> write_plain_answer(const Version& version, const Tensor& output, bool batch) {
  const auto& classes = version.signature.classes;
  const std::int64_t rows = output.spec.shape.empty() ? 1 : output.spec.shape.front();
  const std::size_t size = item_size(output.spec.dtype);
  const std::size_t width = rows > 0 ? output.bytes.size() / size / static_cast<std::size_t>(rows) : 0;
  if (width == 0)
    return fail(Code::kInternal, std::format("the model answered output '{}' of shape {}", output.spec.name,
                                             to_string(output.spec.shape)));
  const bool one_output = width == 1 && classes.size() == 2;  // a sigmoid: the probability of class 1
  if (!classes.empty() && width != classes.size() && !one_output) {
    return fail(Code::kInternal,
                std::format("the model has {} classes but answered {} numbers a row", classes.size(), width));
  }
  std::string body = batch ? R"({"predictions":[)" : "";
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    if (row > 0) body += ',';
    const std::byte* items = output.bytes.data() + row * width * size;
    for (std::size_t i = 0; i < width; ++i) {
      if (!std::isfinite(item_as_double(output.spec.dtype, items + i * size))) {
        return fail(Code::kInternal, std::format("the model answered a number that is not finite for row {}", row));
      }
    }
    if (!classes.empty()) {
      std::vector<double> scores(width);
      for (std::size_t i = 0; i < width; ++i) scores[i] = item_as_double(output.spec.dtype, items + i * size);
      if (version.signature.logits) to_probabilities(scores);
      std::size_t best = static_cast<std::size_t>(std::ranges::max_element(scores) - scores.begin());
      double probability = scores[best];
      if (one_output) {
        best = probability >= 0.5 ? 1 : 0;
        probability = best == 1 ? probability : 1 - probability;
      }
      body += std::format(R"({{"prediction":{},"probability":"{:.4f}"}})", json_quoted(classes[best]), probability);
      continue;
    }
    body += R"({"prediction":)";
    if (width == 1) {
      append_number(body, output.spec.dtype, items);
    } else {
      append_row(body, output.spec, output.bytes.bytes(), static_cast<std::int64_t>(row));
    }
    body += '}';
  }
  if (batch) body += "]}";
  return body;
}

void add_plain_routes(RouteTable& routes, Services& services) {
  routes.add({.method = "POST",
              .pattern = "/predict",
              .dialect = Dialect::kPlain,
              .body = BodyPolicy::kMemory,
              .handler = [&services](Call& call) { return answer_post(services, call); }});
  routes.add({.method = "GET",
              .pattern = "/predict",
              .dialect = Dialect::kPlain,
              .body = BodyPolicy::kNone,
              .handler = [&services](Call& call) { return answer_get(services, call); }});
}

}  // namespace slipway::gateway

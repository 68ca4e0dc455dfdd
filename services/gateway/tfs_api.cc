#include "services/gateway/tfs_api.h"

#include <algorithm>

#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

constexpr std::uint64_t kMostListed = 1000;

class BodyParser {
 public:
  BodyParser(std::string_view body, const Version& version, bool nonfinite, std::size_t max_tensor_bytes)
      : json_(body, nonfinite), version_(version) {
    for (const auto& input : version.signature.inputs) {
      builders_.emplace_back(input.dtype, max_tensor_bytes);
      seen_.push_back(false);
    }
  }

  Result<TfsRequest> parse() {
    if (json_.peek() == '\0') return fail(Code::kInvalidArgument, "JSON Parse error: The document is empty");
    auto read = json_.object([this](const std::string& key) -> Result<void> {
      if (key == "instances" || key == "inputs") {
        if (form_) return fail(Code::kInvalidArgument, "a request has either 'instances' or 'inputs', once");
        form_ = key == "instances";
        return *form_ ? instances() : columns();
      }
      if (key == "signature_name") return signature_name();
      if (auto skipped = json_.skip(); !skipped) return std::unexpected(skipped.error());
      return {};
    });
    if (read) read = json_.end();
    if (!read) return std::unexpected(read.error());
    if (!form_) return fail(Code::kInvalidArgument, "Missing 'inputs' or 'instances' key");
    TfsRequest request{.inputs = {}, .rows = *form_};
    for (std::size_t i = 0; i < builders_.size(); ++i) {
      if (!seen_[i])
        return fail(Code::kInvalidArgument, std::format("input '{}' is missing", version_.signature.inputs[i].name));
      request.inputs.push_back(builders_[i].finish(version_.signature.inputs[i].name));
    }
    fit_rows(version_, request.inputs);
    return request;
  }

 private:
  Result<void> signature_name() {
    if (json_.peek() != '"') return fail(Code::kInvalidArgument, "'signature_name' key must be a string value.");
    auto name = json_.string();
    if (!name) return std::unexpected(name.error());
    if (name->empty() || *name == "serving_default") return {};
    return fail(Code::kInvalidArgument, std::format("signature '{}' is unknown; there is 'serving_default'", *name));
  }

  Result<void> instances() {
    if (json_.peek() != '[') return fail(Code::kInvalidArgument, "'instances' must be a list of rows");
    const std::size_t begin = json_.position();
    if (!json_.take('[')) return json_.wrong("'['");
    const bool objects = json_.peek() == '{';
    json_.seek(begin);
    if (!objects) {
      if (builders_.size() != 1) {
        return fail(Code::kInvalidArgument,
                    std::format("the model has {} inputs, so each of 'instances' must be an object", builders_.size()));
      }
      seen_[0] = true;
      return builders_[0].read(json_);
    }
    std::int64_t row = 0;
    auto read = json_.array([&]() -> Result<void> {
      auto taken = json_.object([&](const std::string& name) -> Result<void> {
        auto index = input_index(version_, name);
        if (!index) return std::unexpected(index.error());
        seen_[*index] = true;
        return builders_[*index].read_row(json_);
      });
      if (!taken) return taken;
      ++row;
      for (std::size_t i = 0; i < builders_.size(); ++i) {
        if (builders_[i].rows() != row) {
          return fail(Code::kInvalidArgument, std::format("row {} of 'instances' must name input '{}' once", row - 1,
                                                          version_.signature.inputs[i].name));
        }
      }
      return {};
    });
    return read;
  }

  Result<void> columns() {
    if (json_.peek() != '{') {
      if (builders_.size() != 1) {
        return fail(Code::kInvalidArgument,
                    std::format("the model has {} inputs, so 'inputs' must be an object", builders_.size()));
      }
      seen_[0] = true;
      return builders_[0].read(json_);
    }
    return json_.object([&](const std::string& name) -> Result<void> {
      auto index = input_index(version_, name);
      if (!index) return std::unexpected(index.error());
      if (seen_[*index]) return fail(Code::kInvalidArgument, std::format("input '{}' comes twice", name));
      seen_[*index] = true;
      return builders_[*index].read(json_);
    });
  }

  JsonReader json_;
  const Version& version_;
  std::vector<TensorBuilder> builders_;
  std::vector<bool> seen_;
  std::optional<bool> form_;  // true: rows
};

// Which version a path means: /versions/N, /labels/L, or the latest.
Result<VersionChoice> choice_of(const Call& call) {
  for (const auto& [name, value] : call.params) {
    if (name == "label") return AliasName{value};
    if (name == "version") {
      auto choice = version_choice(value);
      if (choice && !std::holds_alternative<std::uint64_t>(*choice))
        return fail(Code::kInvalidArgument, std::format("'{}' is not a version number", value));
      return choice;
    }
  }
  return Latest{};
}

Task<Result<VersionRef>> resolve(Services& services, Call& call) {
  auto choice = choice_of(call);
  if (!choice) co_return std::unexpected(choice.error());
  co_return co_await services.cache.resolve(call.param("model"), std::move(*choice), call.request.id);
}

Task<Response> answer_predict(Services& services, Call& call) {
  auto version = co_await resolve(services, call);
  if (!version) co_return error_response(version.error(), Dialect::kTensorFlow, call.request);
  auto request =
      read_tfs_request(call.body, **version, services.settings.nonfinite_inputs, services.settings.max_tensor_bytes);
  if (!request) co_return error_response(request.error(), Dialect::kTensorFlow, call.request);
  auto outputs = co_await predict(services, call, *version, std::move(request->inputs));
  if (!outputs) co_return error_response(outputs.error(), Dialect::kTensorFlow, call.request);
  auto body = write_tfs_answer(*outputs, request->rows);
  if (!body) co_return error_response(body.error(), Dialect::kTensorFlow, call.request);
  co_return json_response(200, std::move(*body));
}

void append_status(std::string& out, std::uint64_t version, std::string_view state) {
  out += std::format(R"({{"version":"{}","state":"{}","status":{{"error_code":"OK","error_message":""}}}})", version,
                     state);
}

Task<Response> answer_status(Services& services, Call& call) {
  const std::string model = call.param("model");
  auto head = co_await services.cache.model(model, call.request.id);
  if (!head) co_return error_response(head.error(), Dialect::kTensorFlow, call.request);
  bool ready = services.workers.inferencers() > 0 && !(*head)->unloaded;
  const std::string_view state = (*head)->unloaded ? "END" : ready ? "AVAILABLE" : "LOADING";
  std::string body = R"({"model_version_status":[)";
  if (call.params.size() == 1) {
    const std::uint64_t latest = (*head)->latest;
    const std::uint64_t last = latest > kMostListed ? latest - kMostListed : 0;
    for (std::uint64_t number = latest; number > last; --number) {
      if (number != latest) body += ',';
      append_status(body, number, state);
    }
    ready = ready && latest > 0;
  } else {
    auto choice = choice_of(call);
    if (!choice) co_return error_response(choice.error(), Dialect::kTensorFlow, call.request);
    auto version = co_await services.cache.find(model, std::move(*choice), call.request.id);
    if (!version) co_return error_response(version.error(), Dialect::kTensorFlow, call.request);
    append_status(body, (*version)->number, state);
  }
  body += std::format(R"(],"name":{},"ready":{}}})", json_quoted(model), ready);
  co_return json_response(200, std::move(body));
}

void append_infos(std::string& out, const std::vector<TensorSpec>& specs) {
  bool first = true;
  for (const auto& spec : specs) {
    const std::string name = json_quoted(spec.name);
    std::string dims;
    for (const std::int64_t size : spec.shape)
      dims += std::format(R"({}{{"size":"{}","name":""}})", dims.empty() ? "" : ",", size);
    out += std::format(R"({}{}:{{"dtype":"{}","tensor_shape":{{"dim":[{}],"unknown_rank":false}},"name":{}}})",
                       first ? "" : ",", name, tensorflow_name(spec.dtype), dims, json_quoted(spec.name + ":0"));
    first = false;
  }
}

Task<Response> answer_metadata(Services& services, Call& call) {
  auto version = co_await resolve(services, call);
  if (!version) co_return error_response(version.error(), Dialect::kTensorFlow, call.request);
  std::string body = std::format(
      R"({{"model_spec":{{"name":{},"signature_name":"","version":"{}"}},"metadata":{{"signature_def":{{"signature_def":)"
      R"({{"serving_default":{{"inputs":{{)",
      json_quoted((*version)->model), (*version)->number);
  append_infos(body, (*version)->signature.inputs);
  body += R"(},"outputs":{)";
  append_infos(body, (*version)->signature.outputs);
  body += R"(},"method_name":"tensorflow/serving/predict","defaults":{}}}}}})";
  co_return json_response(200, std::move(body));
}

Task<Response> answer_models(Services& services, Call& call) {
  auto names = co_await services.cache.model_names(call.request.id);
  if (!names) co_return error_response(names.error(), Dialect::kTensorFlow, call.request);
  std::string body = R"({"models":[)";
  for (std::size_t i = 0; i < (*names)->size(); ++i) body += (i == 0 ? "" : ",") + json_quoted((**names)[i]);
  co_return json_response(200, body + "]}");
}

}  // namespace

Result<TfsRequest> read_tfs_request(std::string_view body, const Version& version, bool nonfinite,
                                    std::size_t max_tensor_bytes) {
  return BodyParser(body, version, nonfinite, max_tensor_bytes).parse();
}

Result<std::string> write_tfs_answer(const std::vector<Tensor>& outputs, bool rows) {
  std::string body;
  if (!rows) {
    body = R"({"outputs":)";
    if (outputs.size() == 1) {
      append_nested(body, outputs[0].spec, outputs[0].bytes.bytes());
    } else {
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        body += (i == 0 ? "{" : ",") + json_quoted(outputs[i].spec.name) + ":";
        append_nested(body, outputs[i].spec, outputs[i].bytes.bytes());
      }
      body += '}';
    }
    return body + "}";
  }
  const std::int64_t count = outputs[0].spec.shape.empty() ? -1 : outputs[0].spec.shape.front();
  for (const auto& output : outputs) {
    if (output.spec.shape.empty() || output.spec.shape.front() != count) {
      return fail(Code::kInternal, std::format("output '{}' of shape {} is not by rows; ask in column format",
                                               output.spec.name, to_string(output.spec.shape)));
    }
  }
  body = R"({"predictions":[)";
  for (std::int64_t row = 0; row < count; ++row) {
    if (row > 0) body += ',';
    if (outputs.size() == 1) {
      append_row(body, outputs[0].spec, outputs[0].bytes.bytes(), row);
      continue;
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      body += (i == 0 ? "{" : ",") + json_quoted(outputs[i].spec.name) + ":";
      append_row(body, outputs[i].spec, outputs[i].bytes.bytes(), row);
    }
    body += '}';
  }
  return body + "]}";
}

void add_tfs_routes(RouteTable& routes, Services& services) {
  const auto add = [&](std::string method, std::string pattern, Task<Response> (*handler)(Services&, Call&)) {
    const BodyPolicy body = method == "POST" ? BodyPolicy::kMemory : BodyPolicy::kNone;
    routes.add({.method = std::move(method),
                .pattern = std::move(pattern),
                .dialect = Dialect::kTensorFlow,
                .body = body,
                .handler = [&services, handler](Call& call) { return handler(services, call); }});
  };
  add("POST", "/v1/models/{model}:predict", answer_predict);
  add("POST", "/v1/models/{model}/versions/{version}:predict", answer_predict);
  add("POST", "/v1/models/{model}/labels/{label}:predict", answer_predict);
  add("GET", "/v1/models", answer_models);
  add("GET", "/v1/models/{model}", answer_status);
  add("GET", "/v1/models/{model}/versions/{version}", answer_status);
  add("GET", "/v1/models/{model}/labels/{label}", answer_status);
  add("GET", "/v1/models/{model}/metadata", answer_metadata);
  add("GET", "/v1/models/{model}/versions/{version}/metadata", answer_metadata);
  add("GET", "/v1/models/{model}/labels/{label}/metadata", answer_metadata);
}

}  // namespace slipway::gateway

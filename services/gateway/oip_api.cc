#include "services/gateway/oip_api.h"

#include <algorithm>

#include "lib/base/release.h"
#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

class BodyParser {
 public:
  BodyParser(std::string_view body, const Version& version, bool nonfinite, std::size_t max_tensor_bytes)
      : json_(body, nonfinite),
        version_(version),
        max_tensor_bytes_(max_tensor_bytes),
        inputs_(version.signature.inputs.size()) {}

  Result<OipRequest> parse() {
    auto read = json_.object([this](const std::string& key) -> Result<void> {
      if (key == "id") {
        auto id = json_.string();
        if (!id) return std::unexpected(id.error());
        request_.id = std::move(*id);
        return {};
      }
      if (key == "inputs") {
        has_inputs_ = true;
        return json_.array([this] { return input(); });
      }
      if (key == "outputs") return json_.array([this] { return output(); });
      return skip();
    });
    if (read) read = json_.end();
    if (!read) return std::unexpected(read.error());
    if (!has_inputs_) return fail(Code::kInvalidArgument, "Unable to parse 'inputs': the request has none");
    std::string missing;
    std::size_t got = 0;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (inputs_[i])
        ++got;
      else
        missing += std::format("{}'{}'", missing.empty() ? "" : ",", version_.signature.inputs[i].name);
    }
    if (!missing.empty()) {
      return fail(Code::kInvalidArgument,
                  std::format("expected {} inputs but got {} inputs for model '{}'; missing required input(s) [{}].",
                              inputs_.size(), got, version_.model, missing));
    }
    for (auto& tensor : inputs_) request_.inputs.push_back(std::move(*tensor));
    return std::move(request_);
  }

 private:
  Result<void> skip() {
    if (auto skipped = json_.skip(); !skipped) return std::unexpected(skipped.error());
    return {};
  }

  Result<void> data(const TensorSpec& wanted, std::optional<TensorBuilder>& builder) {
    if (wanted.dtype == DType::kF16 || wanted.dtype == DType::kBf16) {
      return fail(
          Code::kInvalidArgument,
          std::format("receiving {} data via JSON is not supported. Please use the binary data format for input {}",
                      oip_name(wanted.dtype), wanted.name));
    }
    builder.emplace(wanted.dtype, max_tensor_bytes_);
    return builder->read(json_);
  }

  Result<void> input() {
    std::optional<std::size_t> index;
    std::optional<std::string> datatype;
    std::optional<Shape> shape;
    std::optional<std::size_t> data_at;  // seen before its name
    std::optional<TensorBuilder> builder;
    bool has_data = false;
    auto read = json_.object([&](const std::string& key) -> Result<void> {
      if (key == "name") {
        auto name = json_.string();
        if (!name) return std::unexpected(name.error());
        auto found = input_index(version_, *name);
        if (!found) return std::unexpected(found.error());
        index = *found;
        return {};
      }
      if (key == "datatype") {
        auto name = json_.string();
        if (!name) return std::unexpected(name.error());
        datatype = std::move(*name);
        return {};
      }
      if (key == "shape") {
        shape.emplace();
        return json_.array([&]() -> Result<void> {
          auto size = json_.integer();
          if (!size) return std::unexpected(size.error());
          if (*size < 0) return fail(Code::kInvalidArgument, "a shape's dimensions are not negative");
          if (shape->size() >= TensorBuilder::kMaxRank)
            return fail(Code::kInvalidArgument,
                        std::format("a shape has at most {} dimensions", TensorBuilder::kMaxRank));
          shape->push_back(*size);
          return {};
        });
      }
      if (key == "data") {
        if (has_data) return fail(Code::kInvalidArgument, "an input has 'data' twice");
        has_data = true;
        if (index) return data(version_.signature.inputs[*index], builder);
        data_at = json_.position();
        return skip();
      }
      if (key == "parameters") return input_parameters();
      return skip();
    });
    if (!read) return read;
    if (!index) return fail(Code::kInvalidArgument, "an input has no 'name'");
    const TensorSpec& wanted = version_.signature.inputs[*index];
    if (inputs_[*index])
      return fail(Code::kInvalidArgument, std::format("input '{}' already exists in request", wanted.name));
    if (!datatype || !shape || !has_data) {
      return fail(Code::kInvalidArgument, std::format("input '{}' has no '{}'", wanted.name,
                                                      !datatype ? "datatype"
                                                      : !shape  ? "shape"
                                                                : "data"));
    }
    if (*datatype != oip_name(wanted.dtype)) {
      return fail(Code::kInvalidArgument,
                  std::format("inference input '{}' data-type is '{}', but model '{}' expects '{}'", wanted.name,
                              *datatype, version_.model, oip_name(wanted.dtype)));
    }
    if (data_at) {
      const std::size_t after = json_.position();
      json_.seek(*data_at);
      if (auto taken = data(wanted, builder); !taken) return taken;
      json_.seek(after);
    }
    Tensor tensor = builder->finish(wanted.name);
    const auto count = element_count(*shape);
    if (!count) return std::unexpected(count.error());
    const auto given = static_cast<std::int64_t>(tensor.bytes.size() / item_size(wanted.dtype));
    // Nested as the shape, or flat; nothing in between.
    if (given != *count || (tensor.spec.shape.size() != 1 && tensor.spec.shape != *shape)) {
      return fail(Code::kInvalidArgument, std::format("Unable to parse 'data': Shape does not match true shape of "
                                                      "'data' field: input '{}' has shape {} and data of {}",
                                                      wanted.name, to_string(*shape), to_string(tensor.spec.shape)));
    }
    tensor.spec.shape = std::move(*shape);
    inputs_[*index] = std::move(tensor);
    return {};
  }

  Result<void> input_parameters() {
    return json_.object([&](const std::string& key) -> Result<void> {
      if (key == "binary_data_size" || key.starts_with("shared_memory")) {
        return fail(Code::kUnsupported,
                    std::format("parameter '{}' is not served; send the tensor as JSON 'data'", key));
      }
      return skip();
    });
  }

  Result<void> output() {
    std::optional<std::string> name;
    auto read = json_.object([&](const std::string& key) -> Result<void> {
      if (key == "name") {
        auto text = json_.string();
        if (!text) return std::unexpected(text.error());
        name = std::move(*text);
        return {};
      }
      if (key == "parameters") {
        return json_.object([&](const std::string& parameter) -> Result<void> {
          if (parameter == "classification" || parameter.starts_with("shared_memory")) {
            return fail(Code::kUnsupported, std::format("output parameter '{}' is not served", parameter));
          }
          // A client that asks for binary reads JSON just as well.
          return skip();
        });
      }
      return skip();
    });
    if (!read) return read;
    if (!name) return fail(Code::kInvalidArgument, "an output has no 'name'");
    const auto& outputs = version_.signature.outputs;
    if (std::ranges::find(outputs, *name, &TensorSpec::name) == outputs.end()) {
      return fail(Code::kInvalidArgument,
                  std::format("unexpected inference output '{}' for model '{}'", *name, version_.model));
    }
    if (std::ranges::find(request_.outputs, *name) != request_.outputs.end()) {
      return fail(Code::kInvalidArgument, std::format("output '{}' already exists in request", *name));
    }
    request_.outputs.push_back(std::move(*name));
    return {};
  }

  JsonReader json_;
  const Version& version_;
  const std::size_t max_tensor_bytes_;
  std::vector<std::optional<Tensor>> inputs_;
  OipRequest request_;
  bool has_inputs_ = false;
};

Task<Result<VersionRef>> resolve(Services& services, Call& call) {
  VersionChoice choice = Latest{};
  std::string wanted;
  if (call.params.size() > 1) {
    wanted = call.param("version");
    auto parsed = version_choice(wanted);
    if (!parsed) co_return std::unexpected(parsed.error());
    choice = std::move(*parsed);
  }
  const std::string model = call.param("model");
  auto version = co_await services.cache.resolve(model, std::move(choice), call.request.id);
  if (!version && version.error().code == Code::kNotFound && !version.error().message.starts_with(kUnknownModel)) {
    const std::string which = wanted.empty() ? std::string() : std::format(" version {}", wanted);
    version.error().message = std::format("{}'{}'{} is not found", kUnknownModel, model, which);
  }
  co_return version;
}

Task<Response> answer_server(Services&, Call&) {
  constexpr std::string_view kExtensions = R"json(["model_repository","model_repository(unload_dependents)"])json";
  co_return json_response(200,
                          std::format(R"({{"name":"slipway","version":"{}","extensions":{}}})", kRelease, kExtensions));
}

Task<Response> answer_live(Services&, Call&) { co_return json_response(200, R"({"live":true})"); }

Task<Response> answer_ready(Services& services, Call&) {
  const bool ready = services.not_ready().empty();
  co_return json_response(ready ? 200 : 400, std::format(R"({{"live":true,"ready":{}}})", ready));
}

Task<Response> answer_models(Services& services, Call& call) {
  auto names = co_await services.cache.model_names(call.request.id);
  if (!names) co_return error_response(names.error(), Dialect::kOpenInference, call.request);
  std::string body = R"({"models":[)";
  for (std::size_t i = 0; i < (*names)->size(); ++i) body += (i == 0 ? "" : ",") + json_quoted((**names)[i]);
  co_return json_response(200, body + "]}");
}

void append_specs(std::string& out, const std::vector<TensorSpec>& specs) {
  out += '[';
  for (std::size_t i = 0; i < specs.size(); ++i) {
    std::string shape;
    for (const std::int64_t size : specs[i].shape) shape += std::format("{}{}", shape.empty() ? "" : ",", size);
    out += std::format(R"({}{{"name":{},"datatype":"{}","shape":[{}]}})", i == 0 ? "" : ",", json_quoted(specs[i].name),
                       oip_name(specs[i].dtype), shape);
  }
  out += ']';
}

Task<Response> answer_metadata(Services& services, Call& call) {
  auto version = co_await resolve(services, call);
  if (!version) co_return error_response(version.error(), Dialect::kOpenInference, call.request);
  std::string versions = std::format(R"("{}")", (*version)->number);
  if (call.params.size() == 1) {
    constexpr std::uint64_t kMostListed = 1000;
    const std::uint64_t latest = (*version)->number;  // numbers are dense
    versions.clear();
    for (std::uint64_t n = latest > kMostListed ? latest - kMostListed + 1 : 1; n <= latest; ++n)
      versions += std::format(R"({}"{}")", versions.empty() ? "" : ",", n);
  }
  std::string body = std::format(R"({{"name":{},"versions":[{}],"platform":"pytorch_libtorch","inputs":)",
                                 json_quoted((*version)->model), versions);
  append_specs(body, (*version)->signature.inputs);
  body += R"(,"outputs":)";
  append_specs(body, (*version)->signature.outputs);
  co_return json_response(200, body + "}");
}

Task<Response> answer_model_ready(Services& services, Call& call) {
  auto version = co_await resolve(services, call);
  if (!version) co_return error_response(version.error(), Dialect::kOpenInference, call.request);
  // Any inferencer loads any version on demand.
  if (services.workers.inferencers() == 0) {
    co_return error_response(400, Error{.code = Code::kUnavailable, .message = "Model version not ready", .path = {}},
                             Dialect::kOpenInference, call.request);
  }
  co_return json_response(200, std::format(R"({{"name":{},"ready":true}})", json_quoted((*version)->model)));
}

Task<Response> answer_infer(Services& services, Call& call) {
  auto version = co_await resolve(services, call);
  if (!version) co_return error_response(version.error(), Dialect::kOpenInference, call.request);
  if (const auto length = call.request.header("Inference-Header-Content-Length");
      !length.empty() && length != std::to_string(call.body.size())) {
    co_return error_response(
        Error{.code = Code::kUnsupported, .message = "binary tensor data is not served; send JSON", .path = {}},
        Dialect::kOpenInference, call.request);
  }
  if (const auto coding = call.request.header("Content-Encoding"); !coding.empty() && coding != "identity") {
    co_return error_response(Error{.code = Code::kUnsupported,
                                   .message = std::format("Content-Encoding '{}' is not served", coding),
                                   .path = {}},
                             Dialect::kOpenInference, call.request);
  }
  auto request =
      read_oip_request(call.body, **version, services.settings.nonfinite_inputs, services.settings.max_tensor_bytes);
  if (!request) co_return error_response(request.error(), Dialect::kOpenInference, call.request);
  auto outputs = co_await predict(services, call, *version, std::move(request->inputs));
  if (!outputs) co_return error_response(outputs.error(), Dialect::kOpenInference, call.request);
  co_return json_response(200, write_oip_answer(**version, *request, *outputs));
}

}  // namespace

Result<OipRequest> read_oip_request(std::string_view body, const Version& version, bool nonfinite,
                                    std::size_t max_tensor_bytes) {
  return BodyParser(body, version, nonfinite, max_tensor_bytes).parse();
}

std::string write_oip_answer(const Version& version, const OipRequest& request, const std::vector<Tensor>& outputs) {
  std::string body = "{";
  if (!request.id.empty()) body += std::format(R"("id":{},)", json_quoted(request.id));
  body +=
      std::format(R"("model_name":{},"model_version":"{}","outputs":[)", json_quoted(version.model), version.number);
  bool first = true;
  for (const auto& output : outputs) {
    if (!request.outputs.empty() && std::ranges::find(request.outputs, output.spec.name) == request.outputs.end())
      continue;
    std::string shape;
    for (const std::int64_t size : output.spec.shape) shape += std::format("{}{}", shape.empty() ? "" : ",", size);
    body += std::format(R"({}{{"name":{},"datatype":"{}","shape":[{}],"data":)", first ? "" : ",",
                        json_quoted(output.spec.name), oip_name(output.spec.dtype), shape);
    append_flat(body, output.spec, output.bytes.bytes());
    body += '}';
    first = false;
  }
  return body + "]}";
}

void add_oip_routes(RouteTable& routes, Services& services) {
  const auto add = [&](std::string method, std::string pattern, Task<Response> (*handler)(Services&, Call&)) {
    const BodyPolicy body = method == "POST" ? BodyPolicy::kMemory : BodyPolicy::kNone;
    routes.add({.method = std::move(method),
                .pattern = std::move(pattern),
                .dialect = Dialect::kOpenInference,
                .body = body,
                .handler = [&services, handler](Call& call) { return handler(services, call); }});
  };
  add("GET", "/v2", answer_server);
  add("GET", "/v2/health/live", answer_live);
  add("GET", "/v2/health/ready", answer_ready);
  add("GET", "/v2/models", answer_models);
  add("GET", "/v2/models/{model}", answer_metadata);
  add("GET", "/v2/models/{model}/versions/{version}", answer_metadata);
  add("GET", "/v2/models/{model}/ready", answer_model_ready);
  add("GET", "/v2/models/{model}/versions/{version}/ready", answer_model_ready);
  add("POST", "/v2/models/{model}/infer", answer_infer);
  add("POST", "/v2/models/{model}/versions/{version}/infer", answer_infer);
}

}  // namespace slipway::gateway

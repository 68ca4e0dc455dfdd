#include "services/gateway/repository_api.h"

#include <format>

#include "services/gateway/json_reader.h"
#include "services/gateway/model_serving.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

// Calls `parameter(name, reader)` for each of the body's "parameters"; it must take the value.
template <class Parameter>
Result<void> read_parameters(std::string_view body, Parameter parameter) {
  JsonReader json(body);
  if (json.peek() == '\0') return {};
  const auto skip = [&]() -> Result<void> {
    if (auto skipped = json.skip(); !skipped) return std::unexpected(skipped.error());
    return {};
  };
  auto read = json.object([&](const std::string& key) -> Result<void> {
    if (key != "parameters") return skip();
    return json.object([&](const std::string& name) -> Result<void> { return parameter(name, json); });
  });
  if (read) read = json.end();
  return read;
}

std::unexpected<Error> unsupported(const std::string& name, std::string_view instead) {
  return fail(Code::kUnsupported, std::format("parameter '{}' is not supported: {}", name, instead));
}

Task<Response> answer_index(Services& services, Call& call) {
  const auto only_ready = read_index_request(call.body);
  if (!only_ready) co_return error_response(only_ready.error(), Dialect::kOpenInference, call.request);
  std::vector<Model> models;
  const auto read =
      co_await services.registry.each_model(call.request.id, [&](Model model) { models.push_back(std::move(model)); });
  if (!read) co_return error_response(read.error(), Dialect::kOpenInference, call.request);
  const auto fleet = co_await await_value<WorkerHub::Fleet>(
      [&](std::function<void(WorkerHub::Fleet)> done) { services.workers.look(std::move(done)); });
  co_return json_response(200, write_index(models, fleet, *only_ready));
}

Task<Response> answer_serving(Services& services, Call& call, bool served) {
  const auto checked = served ? check_load_request(call.body) : check_unload_request(call.body);
  if (!checked) co_return error_response(checked.error(), Dialect::kOpenInference, call.request);
  const std::string name = call.param("model");
  auto model = co_await set_serving(services, call, name, served);
  if (!model && model.error().code == Code::kNotFound && served)
    model.error().message =
        std::format("failed to load '{}', no version is available: {}", name, model.error().message);
  if (!model) co_return error_response(model.error(), Dialect::kOpenInference, call.request);
  // Triton's clients look at the status alone, KServe's at the body.
  co_return json_response(200,
                          std::format(R"({{"name":{},"{}":true}})", json_quoted(name), served ? "load" : "unload"));
}

Task<Response> answer_load(Services& services, Call& call) { return answer_serving(services, call, true); }
Task<Response> answer_unload(Services& services, Call& call) { return answer_serving(services, call, false); }

}  // namespace

Result<bool> read_index_request(std::string_view body) {
  JsonReader json(body);
  if (json.peek() == '\0') return false;
  bool ready = false;
  auto read = json.object([&](const std::string& key) -> Result<void> {
    if (key == "ready") {
      auto wanted = json.boolean();
      if (!wanted) return fail(Code::kInvalidArgument, "Invalid value for 'ready': expected a boolean");
      ready = *wanted;
      return {};
    }
    if (auto skipped = json.skip(); !skipped) return std::unexpected(skipped.error());
    return {};
  });
  if (read) read = json.end();
  if (!read) return std::unexpected(read.error());
  return ready;
}

Result<void> check_load_request(std::string_view body) {
  return read_parameters(body, [](const std::string& name, JsonReader&) -> Result<void> {
    if (name == "config") return unsupported(name, "a version is served with the signature that it was published with");
    if (name.starts_with("file:"))
      return unsupported(name, "upload a version with POST /api/v1/models/{model}/versions");
    return unsupported(name, "a load takes no parameters");
  });
}

Result<void> check_unload_request(std::string_view body) {
  return read_parameters(body, [](const std::string& name, JsonReader& json) -> Result<void> {
    if (name != "unload_dependents") return unsupported(name, "an unload takes unload_dependents alone");
    if (auto flag = json.boolean(); !flag)
      return fail(Code::kInvalidArgument, "Invalid value for 'unload_dependents': expected a boolean");
    return {};
  });
}

std::string write_index(const std::vector<Model>& models, const WorkerHub::Fleet& fleet, bool only_ready) {
  std::string body = "[";
  const auto add = [&](const Model& model, std::uint64_t version, std::string_view state, std::string_view reason) {
    if (only_ready && state != "READY") return;
    body += std::format(R"({}{{"name":{},"version":"{}","state":"{}","reason":{}}})", body.size() == 1 ? "" : ",",
                        json_quoted(model.name), version, state, json_quoted(reason));
  };
  for (const Model& model : models) {
    if (model.latest == 0) {
      if (!only_ready) body += std::format(R"({}{{"name":{}}})", body.size() == 1 ? "" : ",", json_quoted(model.name));
      continue;
    }
    if (model.unloaded) {
      add(model, model.latest, "UNAVAILABLE", "unloaded");
      continue;
    }
    for (const msg::VersionKey& key : desired_versions(model)) {
      const auto found = fleet.loaded.find(key);
      const std::size_t loaded = found == fleet.loaded.end() ? 0 : found->second;
      if (fleet.inferencers == 0) {
        add(model, key.version, "UNAVAILABLE", "no inferencer is connected");
      } else if (loaded == fleet.inferencers) {
        add(model, key.version, "READY", "");
      } else {
        add(model, key.version, loaded > 0 ? "READY" : "LOADING",
            std::format("loaded by {} of {} inferencers", loaded, fleet.inferencers));
      }
    }
  }
  return body + "]";
}

void add_repository_routes(RouteTable& routes, Services& services) {
  const auto add = [&](std::string pattern, bool changes, Task<Response> (*handler)(Services&, Call&)) {
    routes.add({.method = "POST",
                .pattern = std::move(pattern),
                .dialect = Dialect::kOpenInference,
                .body = BodyPolicy::kMemory,
                .changes = changes,
                .handler = [&services, handler](Call& call) { return handler(services, call); }});
  };
  add("/v2/repository/index", false, answer_index);
  add("/v2/repository/models/{model}/load", true, answer_load);
  add("/v2/repository/models/{model}/unload", true, answer_unload);
}

}  // namespace slipway::gateway

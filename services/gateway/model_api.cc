// /api/v1/models: models, versions, aliases.
#include "lib/base/json_text.h"
#include "services/gateway/documents.h"
#include "services/gateway/model_serving.h"
#include "services/gateway/own_api.h"
#include "services/gateway/predictor.h"
#include "services/gateway/problem.h"

namespace slipway::gateway {
namespace {

Task<Response> list_models(Services& services, Call& call) {
  auto wanted = page_request<std::string>(call.request, "after");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::Models>(
      msg::ListModels{.after = std::move(wanted->cursor), .limit = wanted->limit}, call.request.id);
  if (!page) co_return refuse(page.error(), call);
  co_return page_response(
      page->items, wanted->limit, [](const Model& model) { return model.name; },
      [](const Model& model) { return to_json(model); });
}

Response one_model(Result<msg::Models> answer, const Call& call) {
  if (!answer) return refuse(answer.error(), call);
  if (answer->items.size() != 1)
    return refuse({.code = Code::kInternal, .message = "the registry answered a model with none", .path = {}}, call);
  return json_response(200, slipway::json_text(to_json(answer->items.front())));
}

Task<Response> get_model(Services& services, Call& call) {
  co_return one_model(
      co_await services.registry.ask<msg::Models>(msg::GetModel{.model = call.param("model")}, call.request.id), call);
}

Result<bool> read_served(const std::string& body) {
  auto document = parse_document(body);
  if (!document) return std::unexpected(document.error());
  for (const auto& [key, value] : *document) {
    if (key != "served") {
      return fail_at(std::format("$.{}", std::string_view(key)), Code::kInvalidArgument,
                     "unknown member; there is served");
    }
    if (!value.is_bool()) return fail_at("$.served", Code::kInvalidArgument, "wanted true or false");
    return value.get_bool();
  }
  return fail_at("$.served", Code::kInvalidArgument, "is missing");
}

Task<Response> patch_model(Services& services, Call& call) {
  const auto served = read_served(call.body);
  if (!served) co_return refuse(served.error(), call);
  auto model = co_await set_serving(services, call, call.param("model"), *served);
  if (!model) co_return refuse(model.error(), call);
  co_return json_response(200, slipway::json_text(to_json(*model)));
}

Task<Response> list_versions(Services& services, Call& call) {
  auto wanted = page_request<std::uint64_t>(call.request, "after");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::Versions>(
      msg::ListVersions{.model = call.param("model"), .after = wanted->cursor, .limit = wanted->limit},
      call.request.id);
  if (!page) co_return refuse(page.error(), call);
  co_return page_response(
      page->items, wanted->limit, [](const Version& version) { return version.number; },
      [](const Version& version) { return to_json(version); });
}

// `version` is a number, an alias, or "latest".
Result<msg::GetVersion> version_question(const Call& call) {
  const std::string& wanted = call.param("version");
  auto choice = version_choice(wanted == "latest" ? std::string_view() : std::string_view(wanted));
  if (!choice) return std::unexpected(choice.error());
  msg::GetVersion question{.model = call.param("model"), .version = 0, .alias = {}};
  if (const auto* number = std::get_if<std::uint64_t>(&*choice)) question.version = *number;
  if (auto* alias = std::get_if<AliasName>(&*choice)) question.alias = std::move(alias->name);
  return question;
}

Response one_version(const Result<msg::Versions>& answer, const Call& call) {
  if (!answer) return refuse(answer.error(), call);
  if (answer->items.size() != 1)
    return refuse({.code = Code::kInternal, .message = "the registry answered a version with none", .path = {}}, call);
  return json_response(200, slipway::json_text(to_json(answer->items.front())));
}

// Not from the cache: whether a version is quarantined changes, and this is where people look.
Task<Response> get_version(Services& services, Call& call) {
  auto question = version_question(call);
  if (!question) co_return refuse(question.error(), call);
  co_return one_version(co_await services.registry.ask<msg::Versions>(std::move(*question), call.request.id), call);
}

Task<Response> lift_quarantine(Services& services, Call& call) {
  auto question = version_question(call);
  if (!question) co_return refuse(question.error(), call);
  msg::LiftQuarantine lift{
      .model = std::move(question->model), .version = question->version, .actor = actor_of(call.request)};
  if (lift.version == 0) {
    co_return refuse({.code = Code::kInvalidArgument,
                      .message = std::format("'{}' is not a version number", call.param("version")),
                      .path = {}},
                     call);
  }
  auto answer = co_await services.registry.ask<msg::Versions>(std::move(lift), call.request.id);
  services.cache.forget(call.param("model"));
  co_return one_version(answer, call);
}

Result<msg::MoveAlias> read_move(const Call& call, bool remove) {
  msg::MoveAlias move{.model = call.param("model"),
                      .alias = call.param("alias"),
                      .to = 0,
                      .check_expected = false,
                      .expected = 0,
                      .reason = {},
                      .actor = actor_of(call.request)};
  if (remove && call.body.empty()) return move;
  auto document = parse_document(call.body);
  if (!document) return std::unexpected(document.error());
  const auto version_of = [](const json::value& value) -> std::optional<std::uint64_t> {
    if (const auto* number = value.if_int64(); number != nullptr && *number > 0)
      return static_cast<std::uint64_t>(*number);
    return std::nullopt;
  };
  for (const auto& [key, value] : *document) {
    if (key == "version" && !remove) {
      const auto number = version_of(value);
      if (!number) return fail_at("$.version", Code::kInvalidArgument, "wanted a version number");
      move.to = *number;
    } else if (key == "expected") {
      const auto number = value.is_null() ? std::optional<std::uint64_t>(0) : version_of(value);
      if (!number)
        return fail_at("$.expected", Code::kInvalidArgument,
                       "wanted the version that the alias must be at, or null for: not set");
      move.check_expected = true;
      move.expected = *number;
    } else if (key == "reason") {
      const auto* text = value.if_string();
      if (text == nullptr || text->size() > 1000)
        return fail_at("$.reason", Code::kInvalidArgument, "wanted a text of at most 1000 bytes");
      move.reason = std::string_view(*text);
    } else {
      return fail_at(std::format("$.{}", std::string_view(key)), Code::kInvalidArgument,
                     remove ? "unknown member; there are expected and reason"
                            : "unknown member; there are version, expected and reason");
    }
  }
  if (!remove && move.to == 0) return fail_at("$.version", Code::kInvalidArgument, "is missing");
  return move;
}

Task<Response> move_alias(Services& services, Call& call, bool remove) {
  auto move = read_move(call, remove);
  if (!move) co_return refuse(move.error(), call);
  // A compare-and-swap is not asked twice: the second would find the first one's work and call it a conflict.
  auto answer = co_await services.registry.ask<msg::Models>(std::move(*move), call.request.id, false);
  services.cache.forget(call.param("model"));
  co_return one_model(std::move(answer), call);
}

Task<Response> put_alias(Services& services, Call& call) { return move_alias(services, call, false); }
Task<Response> delete_alias(Services& services, Call& call) { return move_alias(services, call, true); }

Task<Response> alias_history(Services& services, Call& call) {
  auto wanted = page_request<std::uint64_t>(call.request, "before");
  if (!wanted) co_return refuse(wanted.error(), call);
  auto page = co_await services.registry.ask<msg::AliasMoves>(
      msg::ListAliasMoves{
          .model = call.param("model"), .alias = call.param("alias"), .before = wanted->cursor, .limit = wanted->limit},
      call.request.id);
  if (!page) co_return refuse(page.error(), call);
  if (page->items.empty() && wanted->cursor == 0) {
    co_return refuse(
        {.code = Code::kNotFound,
         .message = std::format("model '{}' never had an alias '{}'", call.param("model"), call.param("alias")),
         .path = {}},
        call);
  }
  co_return page_response(
      page->items, wanted->limit, [](const AliasMove& move) { return move.number; },
      [](const AliasMove& move) { return to_json(move); });
}

}  // namespace

void add_model_routes(RouteTable& routes, Services& services) {
  add_own_route(routes, services, "GET", "/api/v1/models", BodyPolicy::kNone, false, list_models, {"limit", "after"});
  add_own_route(routes, services, "GET", "/api/v1/models/{model}", BodyPolicy::kNone, false, get_model);
  add_own_route(routes, services, "PATCH", "/api/v1/models/{model}", BodyPolicy::kMemory, true, patch_model);
  add_own_route(routes, services, "GET", "/api/v1/models/{model}/versions", BodyPolicy::kNone, false, list_versions,
                {"limit", "after"});
  add_own_route(routes, services, "GET", "/api/v1/models/{model}/versions/{version}", BodyPolicy::kNone, false,
                get_version);
  add_own_route(routes, services, "DELETE", "/api/v1/models/{model}/versions/{version}/quarantine", BodyPolicy::kNone,
                true, lift_quarantine);
  add_own_route(routes, services, "PUT", "/api/v1/models/{model}/aliases/{alias}", BodyPolicy::kMemory, true,
                put_alias);
  add_own_route(routes, services, "DELETE", "/api/v1/models/{model}/aliases/{alias}", BodyPolicy::kMemory, true,
                delete_alias);
  add_own_route(routes, services, "GET", "/api/v1/models/{model}/aliases/{alias}/history", BodyPolicy::kNone, false,
                alias_history, {"limit", "before"});
}

}  // namespace slipway::gateway

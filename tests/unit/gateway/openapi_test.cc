#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <set>

#include "services/gateway/openapi_document.h"
#include "services/gateway/own_api.h"

namespace slipway::gateway {
namespace {

struct OpenApiTest : testing::Test {
  Settings settings;
  Bus bus;
  Caller caller{bus, "127.0.0.1:1"};
  RegistryClient registry{caller, std::chrono::milliseconds(100)};
  RegistryCache cache{registry};
  EventHub events;
  WorkerHub workers{bus, caller, cache, events, settings, "r"};
  Services services{.settings = settings,
                    .registry = registry,
                    .cache = cache,
                    .workers = workers,
                    .events = events,
                    .not_ready = {}};
  RouteTable routes;
  boost::json::value document = boost::json::parse(std::string(openapi_document()));
  void SetUp() override { add_all_routes(routes, services); }
};

TEST_F(OpenApiTest, DescribesEveryRouteAndNoOther) {
  std::set<std::string> served, described;
  for (const auto& route : routes.routes()) served.insert(route.method + " " + route.pattern);
  for (const auto& [path, operations] : document.at("paths").as_object()) {
    for (const auto& [method, operation] : operations.as_object()) {
      std::string upper(method);
      for (char& c : upper) c = static_cast<char>(std::toupper(c));
      described.insert(upper + " " + std::string(path));
    }
  }
  EXPECT_EQ(served, described);
}

TEST_F(OpenApiTest, EveryResponseHasASchemaAndEveryReferenceATarget) {
  EXPECT_EQ(document.at("openapi").as_string(), "3.1.0");
  std::set<std::string> ids;
  for (const auto& [path, operations] : document.at("paths").as_object()) {
    for (const auto& [method, operation] : operations.as_object()) {
      EXPECT_TRUE(ids.insert(std::string(operation.at("operationId").as_string())).second) << path;
      for (const auto& [status, response] : operation.at("responses").as_object()) {
        if (status == "204" || status == "304") continue;
        for (const auto& [type, content] : response.at("content").as_object())
          EXPECT_TRUE(content.as_object().contains("schema")) << path << status;
      }
    }
  }
  const auto& schemas = document.at("components").at("schemas").as_object();
  std::function<void(const boost::json::value&)> walk = [&](const boost::json::value& value) {
    if (const auto* array = value.if_array()) {
      for (const auto& item : *array) walk(item);
    } else if (const auto* object = value.if_object()) {
      for (const auto& [key, item] : *object) {
        if (key == "$ref") {
          EXPECT_TRUE(schemas.contains(
              std::string_view(item.as_string()).substr(std::string_view("#/components/schemas/").size())))
              << item.as_string();
        } else {
          walk(item);
        }
      }
    }
  };
  walk(document);
}

TEST_F(OpenApiTest, SaysHowEachOwnRouteRefuses) {
  for (const auto& route : routes.routes()) {
    if (!route.pattern.starts_with("/api/v1")) continue;
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    const auto& responses = document.at("paths").at(route.pattern).at(method).at("responses").as_object();
    // An unknown query parameter is refused everywhere.
    for (const auto* status : {"400", "500", "503"}) EXPECT_TRUE(responses.contains(status)) << route.pattern << status;
    if (route.body == BodyPolicy::kNone) continue;
    for (const auto* status : {"408", "413"}) EXPECT_TRUE(responses.contains(status)) << route.pattern << status;
  }
}

TEST_F(OpenApiTest, PathParametersAreThoseOfThePath) {
  for (const auto& [path, operations] : document.at("paths").as_object()) {
    for (const auto& [method, operation] : operations.as_object()) {
      std::size_t named = 0;
      if (const auto* parameters = operation.as_object().if_contains("parameters")) {
        for (const auto& parameter : parameters->as_array()) {
          if (parameter.at("in").as_string() != "path") continue;
          ++named;
          EXPECT_NE(std::string_view(path).find("{" + std::string(parameter.at("name").as_string()) + "}"),
                    std::string_view::npos)
              << path;
        }
      }
      EXPECT_EQ(named, static_cast<std::size_t>(std::ranges::count(path, '{'))) << path;
    }
  }
}

}  // namespace
}  // namespace slipway::gateway

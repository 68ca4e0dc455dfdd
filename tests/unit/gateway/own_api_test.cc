#include "services/gateway/own_api.h"

#include <gmock/gmock.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <thread>

namespace slipway::gateway {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

struct OwnApiTest : testing::Test {
  // What the registry answers; on the bus thread.
  std::function<Result<msg::Body>(const msg::Body&)> registry_says = [](const msg::Body&) -> Result<msg::Body> {
    return fail(Code::kInternal, "not asked for here");
  };

  Bus bus;
  SocketId socket = *bus.bind_router("127.0.0.1:0", [this](const Incoming& incoming) {
    auto answer = registry_says(incoming.message.envelope.body);
    (void)bus.send(socket, incoming.peer,
                   {.envelope = {.correlation = incoming.message.envelope.correlation,
                                 .deadline_ms = 0,
                                 .request_id = {},
                                 .body = answer ? std::move(*answer) : msg::Body(to_message(answer.error()))},
                    .payload = {}});
  });
  Settings settings;
  std::unique_ptr<Caller> caller = std::make_unique<Caller>(bus, std::format("127.0.0.1:{}", bus.port(socket)));
  RegistryClient registry{*caller, 30s};
  RegistryCache cache{registry};
  EventHub events;
  WorkerHub workers{bus, *caller, cache, events, settings, "r"};
  Services services{.settings = settings,
                    .registry = registry,
                    .cache = cache,
                    .workers = workers,
                    .events = events,
                    .not_ready = {}};
  RouteTable routes;
  asio::io_context context{1};
  asio::executor_work_guard<Executor> work{context.get_executor()};
  std::thread thread{[this] { context.run(); }};

  void SetUp() override { add_all_routes(routes, services); }
  ~OwnApiTest() override {
    work.reset();
    caller->close();
    thread.join();
    bus.stop();
  }

  Response ask(const std::string& method, const std::string& target, Headers headers = {}, std::string body = {}) {
    Call call;
    call.request.method = method;
    call.request.target = target;
    call.request.path = target.substr(0, target.find('?'));
    if (target.contains('?')) call.request.query = target.substr(target.find('?') + 1);
    call.request.headers = std::move(headers);
    call.request.id = "r";
    call.body = std::move(body);
    auto match = routes.find(method, call.request.path);
    if (match.route == nullptr) {
      ADD_FAILURE() << "no route for " << method << " " << target;
      return {};
    }
    call.params = std::move(match.params);
    return asio::co_spawn(context, match.route->handler(call), asio::use_future).get();
  }
  static json::value document(const Response& response) { return json::parse(response.body); }
};

std::vector<std::string> codes(const json::value& doctor) {
  std::vector<std::string> found;
  for (const auto& finding : doctor.at("findings").as_array())
    found.emplace_back(std::string_view(finding.at("code").as_string()));
  return found;
}

Quarantine quarantine(std::uint8_t number) {
  Quarantine file{.digest = {}, .model = "m", .version = number, .reason = "it ended a process", .at_ms = 1};
  file.digest.bytes[31] = number;
  return file;
}

TEST_F(OwnApiTest, TheDoctorListsWhatTheRegistryHasSetAsideFromAllPages) {
  registry_says = [](const msg::Body& question) -> Result<msg::Body> {
    if (std::holds_alternative<msg::ListUnreadable>(question)) {
      msg::UnreadableRecord record{.family = "jobs", .key = "job-7", .size_bytes = 9, .reason = "cut short"};
      return msg::Unreadable{.items = {record}, .total = 3};
    }
    const auto& page = std::get<msg::ListQuarantines>(question);
    msg::Quarantines answer;
    // Full pages: a thousand, then one.
    if (page.after.empty()) answer.items.assign(page.limit, quarantine(1));
    if (!page.after.empty()) answer.items = {quarantine(2)};
    return answer;
  };
  const auto response = ask("GET", "/api/v1/doctor");
  EXPECT_EQ(response.status, 200);
  const auto doctor = document(response);
  EXPECT_EQ(doctor.at("unreadable").at("total").to_number<int>(), 3);
  EXPECT_EQ(doctor.at("unreadable").at("items").at(0).at("key").as_string(), "job-7");
  const auto& quarantined = doctor.at("quarantined").as_array();
  ASSERT_EQ(quarantined.size(), 1001U);
  EXPECT_EQ(quarantined.back().at("digest").as_string(), std::format("sha256:{:0>62}02", ""));
  EXPECT_EQ(quarantined.back().at("reason").as_string(), "it ended a process");
  EXPECT_TRUE(doctor.at("registry").at("reachable").as_bool());
  const auto found = codes(doctor);
  EXPECT_THAT(found, testing::IsSupersetOf({"no_inferencer", "no_trainer", "unreadable_records", "quarantined"}));
  EXPECT_EQ(std::ranges::count(found, "quarantined"), 1001);
}

TEST_F(OwnApiTest, TheDoctorTellsARegistryThatFailsFromOneThatIsAway) {
  registry_says = [](const msg::Body&) -> Result<msg::Body> { return fail(Code::kDataLoss, "the disk is gone"); };
  auto doctor = document(ask("GET", "/api/v1/doctor"));
  EXPECT_THAT(codes(doctor), ElementsAre("no_inferencer", "no_trainer", "registry_failed"));
  EXPECT_TRUE(doctor.at("quarantined").is_null());
  EXPECT_EQ(doctor.at("registry").at("error").as_string(), "the disk is gone");

  registry_says = [](const msg::Body&) -> Result<msg::Body> { return fail(Code::kUnavailable, "stopping"); };
  doctor = document(ask("GET", "/api/v1/doctor"));
  EXPECT_THAT(codes(doctor), ElementsAre("no_inferencer", "no_trainer", "registry_unreachable"));
  EXPECT_FALSE(doctor.at("registry").at("reachable").as_bool());
}

TEST_F(OwnApiTest, LiftsAQuarantineInTheNameOfTheAsker) {
  std::string actor;
  registry_says = [&](const msg::Body& question) -> Result<msg::Body> {
    const auto& lift = std::get<msg::LiftQuarantine>(question);
    actor = lift.actor;
    Version version;
    version.model = lift.model;
    version.number = lift.version;
    return msg::Versions{.items = {version}};
  };
  const auto response = ask("DELETE", "/api/v1/models/m/versions/3/quarantine", {{"X-Slipway-Actor", "ann"}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(document(response).at("version").to_number<int>(), 3);
  EXPECT_EQ(actor, "ann");
  EXPECT_EQ(ask("DELETE", "/api/v1/models/m/versions/latest/quarantine").status, 400);
}

TEST_F(OwnApiTest, BeginsABackupInTheNameOfWhoAsks) {
  msg::CreateBackup came;
  registry_says = [&](const msg::Body& question) -> Result<msg::Body> {
    came = std::get<msg::CreateBackup>(question);
    msg::Backup backup{.id = "20260131T120000Z", .started_ms = 1'769'860'800'000, .revision = 7};
    return msg::Backups{.items = {backup}};
  };
  const auto response = ask("POST", "/api/v1/backups", {{"X-Slipway-Actor", "ann"}}, R"({"keep": 3})");
  EXPECT_EQ(response.status, 202);
  EXPECT_THAT(response.headers, testing::Contains(testing::Pair("Location", "/api/v1/backups/20260131T120000Z")));
  const auto backup = document(response);
  EXPECT_EQ(backup.at("state").as_string(), "RUNNING");
  EXPECT_EQ(backup.at("started_at").as_string(), "2026-01-31T12:00:00.000Z");
  EXPECT_TRUE(backup.at("ended_at").is_null());
  EXPECT_TRUE(backup.at("reason").is_null());
  EXPECT_EQ(came.keep, 3U);
  EXPECT_EQ(came.actor, "ann");
  EXPECT_EQ(ask("POST", "/api/v1/backups").status, 202);
  EXPECT_EQ(came.keep, 0U);
  for (const char* wrong : {R"({"keep": 0})", R"({"keep": 1.5})", R"({"keep": null})", R"({"kept": 1})", "[]", "7"}) {
    const auto refused = ask("POST", "/api/v1/backups", {}, wrong);
    EXPECT_EQ(refused.status, 400) << wrong;
  }
}

TEST_F(OwnApiTest, OnlyABackupThatIsMadeHasContent) {
  registry_says = [](const msg::Body& question) -> Result<msg::Body> {
    msg::Backup backup{.id = std::get<msg::ListBackups>(question).id};
    if (backup.id == "2") backup.state = msg::BackupState::kFailed;
    return msg::Backups{.items = {backup}};
  };
  for (const char* id : {"1", "2"}) {
    const auto refused = ask("GET", std::format("/api/v1/backups/{}/content", id));
    EXPECT_EQ(refused.status, 409);
    EXPECT_THAT(refused.body, testing::HasSubstr("no content"));
  }
}

TEST_F(OwnApiTest, UnloadsAModelInTheNameOfWhoAsks) {
  registry_says = [](const msg::Body& question) -> Result<msg::Body> {
    const auto* set = std::get_if<msg::SetServing>(&question);
    if (set == nullptr) return fail(Code::kInternal, "not asked for here");
    if (set->model != "m") return fail(Code::kNotFound, "there is no such model");
    Model model;
    model.name = set->model;
    model.latest = 2;
    model.unloaded = !set->served;
    model.serving_actor = set->actor;
    model.serving_at_ms = 1000;
    return msg::Models{.items = {model}};
  };
  const Headers ann{{"X-Slipway-Actor", "ann"}};
  const Response unloaded = ask("PATCH", "/api/v1/models/m", ann, R"({"served":false})");
  ASSERT_EQ(unloaded.status, 200) << unloaded.body;
  EXPECT_EQ(document(unloaded).at("served"), false);
  EXPECT_EQ(document(unloaded).at("served_set_by"), "ann");
  EXPECT_EQ(document(unloaded).at("served_set_at"), "1970-01-01T00:00:01.000Z");
  EXPECT_EQ(ask("POST", "/v2/repository/models/m/unload", ann, R"({"parameters":{"unload_dependents":false}})").body,
            R"({"name":"m","unload":true})");

  const Response alone = ask("PATCH", "/api/v1/models/m", ann, R"({"served":true})");
  EXPECT_EQ(alone.status, 503) << "no inferencer is there to load it";
  EXPECT_THAT(alone.body, testing::HasSubstr("no inferencer is connected"));
  EXPECT_EQ(ask("POST", "/v2/repository/models/m/load", ann, R"({"parameters":{"config":"{}"}})").status, 501);
  EXPECT_EQ(ask("POST", "/v2/repository/models/x/load").status, 404);
  for (const char* body : {"{}", R"({"served":1})", R"({"latest":3})", "x"})
    EXPECT_EQ(ask("PATCH", "/api/v1/models/m", ann, body).status, 400) << body;
}

TEST_F(OwnApiTest, AsksForAPageOfOneAliasMoves) {
  std::vector<std::uint64_t> asked;
  registry_says = [&](const msg::Body& question) -> Result<msg::Body> {
    const auto& list = std::get<msg::ListAliasMoves>(question);
    EXPECT_EQ(list.alias, "prod");
    asked = {list.before, list.limit};
    msg::AliasMoves moves;
    for (std::uint64_t number = 9; list.before == 0 && number > 7; --number)
      moves.items.push_back(
          {.model = "m", .alias = "prod", .from = 0, .to = 1, .reason = {}, .actor = {}, .at_ms = 1, .number = number});
    return moves;
  };
  const auto first = document(ask("GET", "/api/v1/models/m/aliases/prod/history?limit=2"));
  EXPECT_THAT(asked, ElementsAre(0, 2));
  EXPECT_EQ(first.at("items").at(1).at("number").to_number<int>(), 8);
  EXPECT_EQ(first.at("next").to_number<int>(), 8);
  const auto rest = ask("GET", "/api/v1/models/m/aliases/prod/history?limit=2&before=8");
  EXPECT_THAT(asked, ElementsAre(8, 2));
  EXPECT_EQ(rest.status, 200) << "no more moves is not: never any";
  EXPECT_TRUE(document(rest).at("next").is_null());
}

TEST_F(OwnApiTest, AnotherDocumentUnderTheSameKeyIsA409) {
  registry_says = [](const msg::Body& question) -> Result<msg::Body> {
    if (std::holds_alternative<msg::GetDataset>(question)) {
      Dataset dataset;
      dataset.name = "d";
      dataset.version = 1;
      dataset.format = "idx";
      dataset.rows = 10;
      dataset.row_shape = {4};
      dataset.classes = 2;
      return msg::Datasets{.items = {dataset}};
    }
    EXPECT_EQ(std::get<msg::CreateJob>(question).idempotency_key, "k");
    EXPECT_EQ(std::get<msg::CreateJob>(question).job.actor, "ann");
    return fail(Code::kConflict, "the key is of another document");
  };
  const std::string job = R"({"publish": {"model": "m"}, "dataset": "d", "model": {"class_name": "Sequential", "config":
    {"layers": [{"class_name": "InputLayer", "config": {"batch_shape": [null, 4]}},
                {"class_name": "Dense", "config": {"units": 2, "activation": "softmax"}}]}},
    "compile": {"loss": "sparse_categorical_crossentropy"}})";
  const auto response = ask("POST", "/api/v1/jobs", {{"Idempotency-Key", "k"}, {"X-Slipway-Actor", "ann"}}, job);
  EXPECT_EQ(response.status, 409) << response.body;
}

TEST_F(OwnApiTest, PagesHaveLimitsOf1To1000) {
  for (const auto* limit : {"0", "1001", "-1", "x", "18446744073709551616"}) {
    EXPECT_EQ(ask("GET", std::format("/api/v1/models?limit={}", limit)).status, 400) << limit;
    EXPECT_EQ(ask("GET", std::format("/api/v1/models/m/aliases/a/history?before={}", limit)).status == 400,
              std::string_view(limit) != "0" && std::string_view(limit) != "1001")
        << limit;
  }
}

}  // namespace
}  // namespace slipway::gateway

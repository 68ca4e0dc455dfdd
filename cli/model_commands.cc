#include <algorithm>
#include <filesystem>
#include <format>
#include <print>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/table.h"
#include "cli/text.h"

namespace slipway::cli {
namespace {

struct AliasArguments {
  std::string model, alias;
  std::uint64_t version = 0;
  std::optional<std::uint64_t> expected;
  std::string reason;
  std::size_t limit = 100;
};

struct UploadArguments {
  std::string model, file, signature;
};

struct DownloadArguments {
  std::string model, version, file;
};

std::string model_path(const std::string& model) { return "/api/v1/models/" + url_segment(model); }

// The API says null for an alias that is not there yet.
boost::json::value expected_json(std::uint64_t version) {
  return version == 0 ? boost::json::value() : boost::json::value(version);
}

// Aliases come as {"live": 3}.
std::string aliases_text(const boost::json::value& model) {
  std::string text;
  const auto& aliases = field(model, "aliases");
  if (!aliases.is_object()) return text;
  for (const auto& [name, version] : aliases.get_object()) {
    text += std::format("{}{} -> {}", text.empty() ? "" : ", ", std::string_view(name), text_of(version));
  }
  return text;
}

std::string tensors_text(const boost::json::value& tensors) {
  std::string text;
  if (!tensors.is_array()) return text;
  for (const auto& tensor : tensors.get_array()) {
    std::string shape;
    if (const auto& dimensions = field(tensor, "shape"); dimensions.is_array()) {
      for (const auto& dimension : dimensions.get_array()) shape += (shape.empty() ? "" : ", ") + text_of(dimension);
    }
    text +=
        std::format("{}{} {} [{}]", text.empty() ? "" : ", ", text_of(tensor, "name"), text_of(tensor, "dtype"), shape);
  }
  return text;
}

std::uint64_t size_of(const boost::json::value& version) {
  std::uint64_t bytes = 0;
  if (const auto& files = field(version, "files"); files.is_array()) {
    for (const auto& file : files.get_array()) bytes += count_of(file, "size_bytes");
  }
  return bytes;
}

Outcome<Exit> models(const Session& session, const std::string& name) {
  HttpClient client = session.client();
  boost::json::array items;
  if (name.empty()) {
    auto all = client.list("/api/v1/models");
    if (!all) return std::unexpected(all.error());
    items = std::move(*all);
    if (session.json) {
      print_json(items);
      return Exit::kOk;
    }
  } else {
    auto model = client.call("GET", model_path(name));
    if (!model) return std::unexpected(model.error());
    if (session.json) {
      print_json(*model);
      return Exit::kOk;
    }
    items.push_back(std::move(*model));
  }
  using enum Table::Align;
  Table table({{"model"}, {"latest", kRight}, {"aliases"}, {"served"}, {"updated"}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& model : items) {
    table.add({text_of(model, "name"), text_of(model, "latest"), aliases_text(model),
               field(model, "served") == false ? "unloaded" : "yes",
               humane_time_ago(text_of(model, "updated_at"), now)});
  }
  if (table.empty())
    std::println("No models yet. Train one with: slipway train FILE --watch");
  else
    std::print("{}", table.text());
  return Exit::kOk;
}

Outcome<Exit> versions(const Session& session, const std::string& name) {
  HttpClient client = session.client();
  const auto items = client.list(model_path(name) + "/versions");
  if (!items) return std::unexpected(items.error());
  if (session.json) {
    print_json(*items);
    return Exit::kOk;
  }
  using enum Table::Align;
  Table table({{"version", kRight}, {"made by"}, {"metrics"}, {"input"}, {"output"}, {"size", kRight}, {"created"}});
  const auto now = std::chrono::system_clock::now();
  std::string quarantined;
  for (const auto& version : *items) {
    if (const auto& why = field(version, "quarantined"); why.is_object()) {
      quarantined += std::format("Version {} is quarantined, and not loaded: {}\n", text_of(version, "version"),
                                 printable(text_of(why, "reason")));
    }
    const std::string job = text_of(field(version, "lineage"), "job");
    table.add({text_of(version, "version"), job.empty() ? "upload" : job, metrics_text(field(version, "metrics")),
               tensors_text(field(field(version, "signature"), "inputs")),
               tensors_text(field(field(version, "signature"), "outputs")), humane_bytes(size_of(version)),
               humane_time_ago(text_of(version, "created_at"), now)});
  }
  if (table.empty())
    std::println("Model {} has no versions yet.", name);
  else
    std::print("{}", table.text());
  if (!quarantined.empty())
    std::println("\n{}To let one be loaded again: slipway quarantine lift {} VERSION", quarantined, name);
  return Exit::kOk;
}

Outcome<Exit> set_served(const Session& session, const std::string& model, bool served) {
  HttpClient client = session.client();
  const auto answer =
      client.call("PATCH", model_path(model), boost::json::serialize(boost::json::object{{"served", served}}));
  if (!answer) return std::unexpected(answer.error());
  if (session.json)
    print_json(*answer);
  else
    std::println("model {} is {}", model, served ? "loaded by every inferencer" : "unloaded");
  return Exit::kOk;
}

Outcome<Exit> lift_quarantine(const Session& session, const std::string& model, std::uint64_t number) {
  HttpClient client = session.client();
  const auto version = client.call("DELETE", std::format("{}/versions/{}/quarantine", model_path(model), number));
  if (!version) return std::unexpected(version.error());
  if (session.json)
    print_json(*version);
  else
    std::println("model {} version {} may be loaded again", model, number);
  return Exit::kOk;
}

Outcome<Exit> set_alias(const Session& session, const AliasArguments& arguments) {
  boost::json::object body{{"version", arguments.version}};
  if (arguments.expected) body["expected"] = expected_json(*arguments.expected);
  if (!arguments.reason.empty()) body["reason"] = arguments.reason;
  HttpClient client = session.client();
  const auto answer = client.call("PUT", model_path(arguments.model) + "/aliases/" + url_segment(arguments.alias),
                                  boost::json::serialize(body));
  if (!answer) return std::unexpected(answer.error());
  if (session.json)
    print_json(*answer);
  else
    std::println("{}@{} is version {}", arguments.model, arguments.alias, arguments.version);
  return Exit::kOk;
}

Outcome<Exit> delete_alias(const Session& session, const AliasArguments& arguments) {
  boost::json::object body;
  if (arguments.expected) body["expected"] = expected_json(*arguments.expected);
  if (!arguments.reason.empty()) body["reason"] = arguments.reason;
  HttpClient client = session.client();
  const auto answer = client.call("DELETE", model_path(arguments.model) + "/aliases/" + url_segment(arguments.alias),
                                  body.empty() ? "" : boost::json::serialize(body));
  if (!answer) return std::unexpected(answer.error());
  if (session.json)
    print_json(*answer);
  else
    std::println("{}@{} is gone", arguments.model, arguments.alias);
  return Exit::kOk;
}

Outcome<Exit> alias_history(const Session& session, const AliasArguments& arguments) {
  HttpClient client = session.client();
  auto moves = client.list(std::format("{}/aliases/{}/history?limit={}", model_path(arguments.model),
                                       url_segment(arguments.alias), std::min<std::size_t>(arguments.limit, 1000)),
                           arguments.limit, "before");
  if (!moves) return std::unexpected(moves.error());
  std::ranges::reverse(*moves);  // the last line is where it is now
  if (session.json) {
    print_json(*moves);
    return Exit::kOk;
  }
  using enum Table::Align;
  Table table({{"when"}, {"from", kRight}, {"to", kRight}, {"by"}, {"reason"}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& move : *moves) {
    table.add({humane_time_ago(text_of(move, "at"), now), text_of(move, "from"), text_of(move, "to"),
               text_of(move, "actor"), text_of(move, "reason")});
  }
  std::print("{}", table.text());
  return Exit::kOk;
}

Outcome<Exit> upload(const Session& session, const UploadArguments& arguments) {
  const auto signature = read_text_file(arguments.signature);
  if (!signature) return std::unexpected(signature.error());
  if (auto parsed = parse_json(*signature, arguments.signature); !parsed) return std::unexpected(parsed.error());
  std::error_code error;
  const auto size = std::filesystem::file_size(arguments.file, error);
  if (error) return give_up(Exit::kUsage, std::format("cannot read {}: {}", arguments.file, error.message()));

  StatusLine line;
  HttpClient client = session.client();
  const std::vector<FormPart> parts = {
      {.name = "signature", .file = {}, .text = *signature, .content_type = "application/json"},
      {.name = "file", .file = arguments.file, .text = "", .content_type = "application/octet-stream"}};
  const auto version = client.upload("POST", model_path(arguments.model) + "/versions", parts,
                                     transfer_bar(line, "uploading " + humane_bytes(size)));
  line.clear();
  if (!version) return std::unexpected(version.error());
  if (session.json)
    print_json(*version);
  else
    std::println("model {} version {}", arguments.model, text_of(*version, "version"));
  return Exit::kOk;
}

Outcome<Exit> download(const Session& session, const DownloadArguments& arguments) {
  StatusLine line;
  HttpClient client = session.client();
  const std::string path =
      std::format("{}/versions/{}/artifacts/model.pt", model_path(arguments.model), url_segment(arguments.version));
  const auto bytes = client.download(path, arguments.file, transfer_bar(line, "downloading"));
  line.clear();
  if (!bytes) return std::unexpected(bytes.error());
  if (session.json)
    print_json(boost::json::object{{"file", arguments.file}, {"size_bytes", *bytes}});
  else
    std::println("{}: {}", arguments.file, humane_bytes(*bytes));
  return Exit::kOk;
}

}  // namespace

void add_model_commands(CLI::App& app, Session& session) {
  auto* models_command = app.add_subcommand("models", "List the models, or show one");
  auto listed = std::make_shared<std::string>();
  models_command->add_option("NAME", *listed, "Model to show");
  models_command->footer("Examples:\n  slipway models\n  slipway models fashion --json");
  models_command->callback(
      [&session, listed] { session.run = [&session, listed] { return models(session, *listed); }; });

  auto* versions_command =
      app.add_subcommand("versions", "List a model's versions: metrics, inputs and outputs, origin");
  auto model = std::make_shared<std::string>();
  versions_command->add_option("NAME", *model, "The model")->required();
  versions_command->footer("Example:\n  slipway versions fashion");
  versions_command->callback(
      [&session, model] { session.run = [&session, model] { return versions(session, *model); }; });

  auto served = std::make_shared<std::string>();
  const auto add_serving = [&](const char* name, const char* what, const char* footer, bool wanted) {
    auto* command = app.add_subcommand(name, what);
    command->add_option("MODEL", *served, "The model")->required();
    command->footer(footer);
    command->callback([&session, served, wanted] {
      session.run = [&session, served, wanted] { return set_served(session, *served, wanted); };
    });
  };
  add_serving("load", "Serve a model: every inferencer loads it, which is waited for",
              "Example:\n  slipway load fashion", true);
  add_serving("unload", "Stop serving a model; its versions stay, and jobs publish more",
              "Example:\n  slipway unload fashion\nIt takes no more predictions until `slipway load`.", false);

  auto* quarantine = app.add_subcommand("quarantine", "Versions that are not loaded because they ended a process");
  quarantine->require_subcommand(1);
  auto lifted = std::make_shared<std::pair<std::string, std::uint64_t>>();
  auto* lift_command =
      quarantine->add_subcommand("lift", "Let a version, and every other of the same file, be loaded again");
  lift_command->add_option("MODEL", lifted->first, "The model")->required();
  lift_command->add_option("VERSION", lifted->second, "Number of the version")->required()->check(CLI::PositiveNumber);
  lift_command->footer(
      "Example:\n  slipway quarantine lift resnet 3\n`slipway doctor` lists what is quarantined, and why.");
  lift_command->callback([&session, lifted] {
    session.run = [&session, lifted] { return lift_quarantine(session, lifted->first, lifted->second); };
  });

  auto* alias = app.add_subcommand("alias", "Move or delete a name that points at a version, or show where it pointed");
  alias->require_subcommand(1);
  auto moved = std::make_shared<AliasArguments>();
  auto* set_command = alias->add_subcommand("set", "Let an alias point at a version");
  set_command->add_option("MODEL", moved->model, "The model")->required();
  set_command->add_option("ALIAS", moved->alias, "The alias, e.g. live")->required();
  set_command->add_option("VERSION", moved->version, "Version it shall point at")->required();
  set_command->add_option("--expected", moved->expected,
                          "Only when it points at this version now; 0: only when it is not there yet");
  set_command->add_option("--reason", moved->reason, "Why, for the audit record");
  set_command->footer(
      "Examples:\n"
      "  slipway alias set fashion live 3\n"
      "  slipway alias set fashion live 4 --expected 3 --reason 'better on the new season'");
  set_command->callback([&session, moved] { session.run = [&session, moved] { return set_alias(session, *moved); }; });
  auto* delete_command = alias->add_subcommand("delete", "Delete an alias; the version stays");
  delete_command->add_option("MODEL", moved->model, "The model")->required();
  delete_command->add_option("ALIAS", moved->alias, "The alias")->required();
  delete_command->add_option("--expected", moved->expected, "Only when it points at this version now");
  delete_command->add_option("--reason", moved->reason, "Why, for the audit record");
  delete_command->footer("Example:\n  slipway alias delete fashion canary --reason 'trial over'");
  delete_command->callback(
      [&session, moved] { session.run = [&session, moved] { return delete_alias(session, *moved); }; });

  auto* history_command = alias->add_subcommand("history", "Show the moves of an alias, the newest last");
  history_command->add_option("MODEL", moved->model, "The model")->required();
  history_command->add_option("ALIAS", moved->alias, "The alias")->required();
  history_command->add_option("--limit", moved->limit, "How many to show, the newest")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  history_command->footer(
      "Examples:\n  slipway alias history fashion live\n  slipway alias history fashion live --limit 5");
  history_command->callback(
      [&session, moved] { session.run = [&session, moved] { return alias_history(session, *moved); }; });

  auto* upload_command = app.add_subcommand("upload", "Add a TorchScript file made elsewhere as a new version");
  auto uploaded = std::make_shared<UploadArguments>();
  upload_command->add_option("MODEL", uploaded->model, "The model; made when it is new")->required();
  upload_command->add_option("FILE", uploaded->file, "What torch.jit.save wrote")->required();
  upload_command->add_option("--signature", uploaded->signature, "Its inputs and outputs, a JSON document")->required();
  upload_command->footer(
      "Example:\n"
      "  slipway upload resnet model.pt --signature signature.json\n"
      "where signature.json holds\n"
      "  {\"inputs\": [{\"name\": \"image\", \"dtype\": \"f32\", \"shape\": [-1, 3, 224, 224]}],\n"
      "   \"outputs\": [{\"name\": \"logits\", \"dtype\": \"f32\", \"shape\": [-1, 1000]}]}\n"
      "The file is scanned and tried out before it becomes a version.");
  upload_command->callback(
      [&session, uploaded] { session.run = [&session, uploaded] { return upload(session, *uploaded); }; });

  auto* download_command = app.add_subcommand("download", "Fetch a version's TorchScript file");
  auto downloaded = std::make_shared<DownloadArguments>();
  download_command->add_option("MODEL", downloaded->model, "The model")->required();
  download_command->add_option("VERSION", downloaded->version, "Number of the version")->required();
  download_command->add_option("FILE", downloaded->file, "Where to write it")->required();
  download_command->footer(
      "Example:\n"
      "  slipway download fashion 1 fashion.pt && python3 -c 'import torch; print(torch.jit.load(\"fashion.pt\"))'");
  download_command->callback(
      [&session, downloaded] { session.run = [&session, downloaded] { return download(session, *downloaded); }; });
}

}  // namespace slipway::cli

#include <chrono>
#include <format>
#include <print>
#include <thread>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/table.h"
#include "cli/text.h"

namespace slipway::cli {
namespace {

using namespace std::chrono_literals;

constexpr const char* kBackups = "/api/v1/backups";

struct BackupArguments {
  std::string id, file;
  std::uint64_t keep = 0;
  bool no_wait = false;
};

std::string path_of(const std::string& id) { return std::format("{}/{}", kBackups, url_segment(id)); }

Outcome<Exit> tell(const Session& session, const boost::json::value& backup) {
  if (session.json) print_json(backup);
  const std::string id = text_of(backup, "id");
  const std::string state = text_of(backup, "state");
  if (state == "FAILED")
    return give_up(Exit::kRefused, std::format("backup {} failed: {}", id, printable(text_of(backup, "reason"))));
  if (!session.json && state == "RUNNING") {
    std::println("backup {} has begun; slipway backup list shows how far it is", id);
  } else if (!session.json) {
    std::println("backup {}: {}, {} of it new", id, humane_bytes(count_of(backup, "size_bytes")),
                 humane_bytes(count_of(backup, "copied_bytes")));
  }
  if (const auto damaged = count_of(backup, "damaged_chunks"); damaged > 0) {
    return give_up(Exit::kRefused,
                   std::format("backup {} lacks {} chunks that the registry itself cannot read; its log "
                               "names them",
                               id, damaged));
  }
  return Exit::kOk;
}

Outcome<Exit> create(const Session& session, const BackupArguments& arguments) {
  HttpClient client = session.client();
  const auto body =
      arguments.keep == 0 ? std::string() : boost::json::serialize(boost::json::object{{"keep", arguments.keep}});
  auto backup = client.call("POST", kBackups, body);
  if (!backup) return std::unexpected(backup.error());
  if (arguments.no_wait) return tell(session, *backup);
  const std::string id = text_of(*backup, "id");
  StatusLine line;
  for (auto pause = 50ms; text_of(*backup, "state") == "RUNNING"; pause = std::min(2 * pause, 1'000ms)) {
    line.show(std::format("{}: {} chunks, {}", id, humane_count(count_of(*backup, "chunks")),
                          humane_bytes(count_of(*backup, "size_bytes"))));
    std::this_thread::sleep_for(pause);
    backup = client.call("GET", path_of(id));
    if (!backup) break;
  }
  line.clear();
  if (!backup) return std::unexpected(backup.error());
  return tell(session, *backup);
}

Outcome<Exit> list(const Session& session) {
  HttpClient client = session.client();
  const auto items = client.list(kBackups);
  if (!items) return std::unexpected(items.error());
  if (session.json) {
    print_json(*items);
    return Exit::kOk;
  }
  using enum Table::Align;
  Table table({{"backup"}, {"state"}, {"chunks", kRight}, {"size", kRight}, {"new", kRight}, {"begun"}, {"remarks"}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& backup : *items) {
    std::string remarks = text_of(backup, "reason");
    if (const auto damaged = count_of(backup, "damaged_chunks"); damaged > 0)
      remarks += std::format("{}{} damaged chunks are missing", remarks.empty() ? "" : "; ", damaged);
    table.add({text_of(backup, "id"), text_of(backup, "state"), humane_count(count_of(backup, "chunks")),
               humane_bytes(count_of(backup, "size_bytes")), humane_bytes(count_of(backup, "copied_bytes")),
               humane_time_ago(text_of(backup, "started_at"), now), remarks});
  }
  if (table.empty())
    std::println("No backups yet. Make one with: slipway backup create");
  else
    std::print("{}", table.text());
  return Exit::kOk;
}

Outcome<Exit> remove(const Session& session, const std::string& id) {
  HttpClient client = session.client();
  const auto answer = client.call("DELETE", path_of(id));
  if (!answer) return std::unexpected(answer.error());
  if (!session.json) std::println("backup {} is gone", id);
  return Exit::kOk;
}

Outcome<Exit> download(const Session& session, const BackupArguments& arguments) {
  StatusLine line;
  HttpClient client = session.client();
  const std::string file = arguments.file.empty() ? std::format("slipway-{}.tar", arguments.id) : arguments.file;
  const auto bytes = client.download(path_of(arguments.id) + "/content", file, transfer_bar(line, "downloading"));
  line.clear();
  if (!bytes) return std::unexpected(bytes.error());
  if (session.json)
    print_json(boost::json::object{{"file", file}, {"size_bytes", *bytes}});
  else
    std::println("{}: {}", file, humane_bytes(*bytes));
  return Exit::kOk;
}

}  // namespace

void add_backup_command(CLI::App& app, Session& session) {
  auto* backup = app.add_subcommand("backup", "Make, list, fetch and delete backups of the registry");
  backup->require_subcommand(1);
  auto arguments = std::make_shared<BackupArguments>();

  auto* create_command = backup->add_subcommand("create", "Make a backup, and wait until it is made");
  create_command->add_option("--keep", arguments->keep, "Afterwards delete older ones than so many")
      ->check(CLI::Range(1, 10'000));
  create_command->add_flag("--no-wait", arguments->no_wait, "Only begin it");
  create_command->footer(
      "Examples:\n  slipway backup create\n  slipway backup create --keep 7\n"
      "Work goes on meanwhile. Only bytes that no earlier backup has are copied.");
  create_command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return create(session, *arguments); }; });

  auto* list_command = backup->add_subcommand("list", "List the backups");
  list_command->footer("Example:\n  slipway backup list");
  list_command->callback([&session] { session.run = [&session] { return list(session); }; });

  auto* download_command = backup->add_subcommand("download", "Fetch a backup as one tar file, to keep it elsewhere");
  download_command->add_option("ID", arguments->id, "The backup")->required();
  download_command->add_option("--output", arguments->file, "File to write; without it slipway-ID.tar");
  download_command->footer(
      "Example:\n  slipway backup download 20260131T120000Z\n"
      "Unpacked into an empty folder it is what `slipway-registry restore --from FOLDER` takes.");
  download_command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return download(session, *arguments); }; });

  auto* delete_command = backup->add_subcommand("delete", "Delete a backup, and the bytes that no other one needs");
  delete_command->add_option("ID", arguments->id, "The backup")->required();
  delete_command->footer("Example:\n  slipway backup delete 20260131T120000Z");
  delete_command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return remove(session, arguments->id); }; });
}

}  // namespace slipway::cli

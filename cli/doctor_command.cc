#include <format>
#include <print>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/table.h"
#include "cli/text.h"
#include "lib/base/release.h"

namespace slipway::cli {
namespace {

void print_quarantined(const boost::json::value& files) {
  if (!files.is_array() || files.get_array().empty()) return;
  using enum Table::Align;
  Table table({{"model"}, {"version", kRight}, {"since"}, {"file"}, {"reason"}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& file : files.get_array()) {
    const std::string digest = text_of(file, "digest");
    table.add({text_of(file, "model"), text_of(file, "version"), humane_time_ago(text_of(file, "at"), now),
               digest.substr(0, std::string_view("sha256:").size() + 12), text_of(file, "reason")});
  }
  std::println("\nFiles that no inferencer loads, under whatever name (slipway quarantine lift MODEL VERSION):\n{}",
               table.text());
}

void print_unreadable(const boost::json::value& unreadable) {
  const auto& items = field(unreadable, "items");
  if (!items.is_array() || items.get_array().empty()) return;
  using enum Table::Align;
  Table table({{"family"}, {"key"}, {"size", kRight}, {"reason"}});
  for (const auto& record : items.get_array()) {
    table.add({text_of(record, "family"), text_of(record, "key"), humane_bytes(count_of(record, "size_bytes")),
               text_of(record, "reason")});
  }
  const auto total = count_of(unreadable, "total");
  const auto shown = items.get_array().size();
  std::println("\nRecords that this release cannot read{}:\n{}",
               total > shown ? std::format(" (the first {} of {})", shown, humane_count(total)) : "", table.text());
}

Outcome<Exit> doctor(const Session& session) {
  HttpClient client = session.client();
  auto found = client.call("GET", "/api/v1/doctor");
  if (!found) return std::unexpected(found.error());
  const auto& findings = field(*found, "findings");
  if (!findings.is_array()) return give_up(Exit::kRefused, "the server's answer has no list \"findings\"");
  const bool other_release = text_of(*found, "release") != kRelease;
  const bool well = findings.get_array().empty() && !other_release;
  if (session.json) {
    print_json(*found);
    return well ? Exit::kOk : Exit::kRefused;
  }
  std::println("gateway   {}, release {}", client.server(), printable(text_of(*found, "release")));
  const auto& reachable = field(field(*found, "registry"), "reachable");
  std::println("registry  {}", reachable.is_bool() && reachable.get_bool() ? "answers" : "does not answer");
  std::println("workers   inferencers: {}, trainers: {}", count_of(*found, "inferencers"),
               count_of(*found, "trainers"));
  std::println("");
  if (well) {
    std::println("Nothing is wrong.");
    return Exit::kOk;
  }
  for (const auto& finding : findings.get_array()) std::println("- {}", printable(text_of(finding, "message")));
  if (other_release) {
    std::println("- the gateway is of release {}, this command of {}", printable(text_of(*found, "release")), kRelease);
  }
  print_quarantined(field(*found, "quarantined"));
  print_unreadable(field(*found, "unreadable"));
  return Exit::kRefused;
}

}  // namespace

void add_doctor_command(CLI::App& app, Session& session) {
  auto* command =
      app.add_subcommand("doctor", "Tell what somebody should look at: services, damaged records, quarantines");
  command->footer(
      "Examples:\n"
      "  slipway doctor\n"
      "  slipway doctor --json\n"
      "Exit code 0: nothing is wrong; 1: something is.");
  command->callback([&session] { session.run = [&session] { return doctor(session); }; });
}

}  // namespace slipway::cli

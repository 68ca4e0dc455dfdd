#include <filesystem>
#include <format>
#include <print>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/table.h"
#include "cli/text.h"

namespace slipway::cli {
namespace {

struct PutArguments {
  std::string name;
  std::vector<std::string> files;
};

std::string shape_text(const boost::json::value& shape) {
  std::string text;
  if (!shape.is_array()) return text;
  for (const auto& dimension : shape.get_array()) text += (text.empty() ? "" : " x ") + text_of(dimension);
  return text;
}

// The first digits of "sha256:3a7f...", enough to tell versions apart.
std::string short_digest(std::string digest) {
  if (const auto colon = digest.find(':'); colon != std::string::npos) digest.erase(0, colon + 1);
  return digest.substr(0, 12);
}

std::string rows_text(const boost::json::value& dataset) {
  std::string text = humane_count(count_of(dataset, "rows"));
  if (const auto test = count_of(dataset, "test_rows"); test > 0) text += " + " + humane_count(test) + " test";
  return text;
}

Outcome<Exit> put(const Session& session, const PutArguments& arguments) {
  std::vector<FormPart> parts;
  std::uintmax_t bytes = 0;
  for (const std::string& file : arguments.files) {
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    if (error) return give_up(Exit::kUsage, std::format("cannot read {}: {}", file, error.message()));
    bytes += size;
    parts.push_back({.name = "file", .file = file, .text = "", .content_type = "application/octet-stream"});
  }
  StatusLine line;
  HttpClient client = session.client();
  const auto dataset = client.upload("PUT", "/api/v1/datasets/" + url_segment(arguments.name), parts,
                                     transfer_bar(line, "uploading " + humane_bytes(bytes)));
  line.clear();
  if (!dataset) return std::unexpected(dataset.error());
  if (session.json) {
    print_json(*dataset);
    return Exit::kOk;
  }
  std::string details = std::format("{} rows", rows_text(*dataset));
  if (const auto shape = shape_text(field(*dataset, "row_shape")); !shape.empty()) details += ", each " + shape;
  if (const auto classes = count_of(*dataset, "classes"); classes > 0) details += std::format(", {} classes", classes);
  std::println("dataset {} version {}: {}", printable(text_of(*dataset, "name")), count_of(*dataset, "version"),
               details);
  std::println("digest {}", printable(text_of(*dataset, "digest")));
  return Exit::kOk;
}

Outcome<Exit> list(const Session& session) {
  HttpClient client = session.client();
  const auto items = client.list("/api/v1/datasets");
  if (!items) return std::unexpected(items.error());
  if (session.json) {
    print_json(*items);
    return Exit::kOk;
  }
  using enum Table::Align;
  Table table({{"name"},
               {"version", kRight},
               {"format"},
               {"rows", kRight},
               {"row"},
               {"classes", kRight},
               {"size", kRight},
               {"created"},
               {"digest"}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& item : *items) {
    const auto classes = count_of(item, "classes");
    table.add({text_of(item, "name"), text_of(item, "version"), text_of(item, "format"), rows_text(item),
               shape_text(field(item, "row_shape")), classes > 0 ? std::to_string(classes) : "-",
               humane_bytes(count_of(item, "size_bytes")), humane_time_ago(text_of(item, "created_at"), now),
               short_digest(text_of(item, "digest"))});
  }
  if (table.empty())
    std::println("No data sets yet. Put one there with: slipway dataset put NAME FILE...");
  else
    std::print("{}", table.text());
  return Exit::kOk;
}

}  // namespace

void add_dataset_commands(CLI::App& app, Session& session) {
  auto* dataset = app.add_subcommand("dataset", "Upload and list data sets");
  dataset->require_subcommand(1);

  auto* put_command = dataset->add_subcommand("put", "Upload files as a data set; the same bytes again change nothing");
  auto arguments = std::make_shared<PutArguments>();
  put_command->add_option("NAME", arguments->name, "Name of the data set")->required();
  put_command
      ->add_option("FILE", arguments->files, "MNIST's four IDX files (gzip or not), or one CSV file with a header")
      ->required();
  put_command->footer(
      "Examples:\n"
      "  slipway dataset put fashion-mnist train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz \\\n"
      "      t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz\n"
      "  slipway dataset put boston boston.csv");
  put_command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return put(session, *arguments); }; });

  auto* list_command = dataset->add_subcommand("list", "List the data sets with their newest version");
  list_command->footer("Example:\n  slipway dataset list --json | python3 -m json.tool");
  list_command->callback([&session] { session.run = [&session] { return list(session); }; });
}

}  // namespace slipway::cli

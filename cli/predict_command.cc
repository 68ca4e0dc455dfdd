#include <algorithm>
#include <cmath>
#include <format>
#include <numeric>
#include <print>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/served_model.h"
#include "cli/table.h"
#include "cli/text.h"
#include "lib/base/json_text.h"

namespace slipway::cli {
namespace {

struct PredictArguments {
  ModelChoice choice;
  std::string input, file;
  std::vector<double> values;
  std::string expect;
  double tolerance = 1e-6;
};

constexpr std::size_t kShownClasses = 3;

void print_scores(const ServedModel& served, const boost::json::value& prediction) {
  const auto& scores = prediction.get_array();
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](auto a, auto b) { return number_of(scores[a]) > number_of(scores[b]); });
  order.resize(std::min(order.size(), kShownClasses));
  std::size_t width = 0;
  for (const auto i : order) width = std::max(width, display_width(printable(served.classes[i])));
  for (const auto i : order) {
    const std::string name = printable(served.classes[i]);
    std::string line = std::format("  {}{}  {:.4f}  {}", name, std::string(width - display_width(name), ' '),
                                   number_of(scores[i]), bar(number_of(scores[i]), 30));
    line.erase(line.find_last_not_of(' ') + 1);
    std::println("{}", line);
  }
}

// Whether the numbers of both are the same but for the tolerance, in the same shape; everything else is exactly so.
bool agree(const boost::json::value& got, const boost::json::value& expected, double tolerance) {
  if (got.is_number() && expected.is_number()) {
    return std::abs(got.to_number<double>() - expected.to_number<double>()) <= tolerance;
  }
  if (const auto *list = got.if_array(), *wanted = expected.if_array(); list != nullptr && wanted != nullptr) {
    return std::ranges::equal(*list, *wanted, [&](const auto& a, const auto& b) { return agree(a, b, tolerance); });
  }
  // A model with one output answers [y] for a row.
  if (const auto* list = got.if_array(); list != nullptr && list->size() == 1 && expected.is_number()) {
    return agree(list->front(), expected, tolerance);
  }
  return got == expected;
}

Outcome<Exit> predict(const Session& session, const PredictArguments& arguments) {
  boost::json::value row;
  if (!arguments.values.empty()) {
    row = boost::json::array(arguments.values.begin(), arguments.values.end());
  } else {
    std::string text = arguments.input;
    if (!arguments.file.empty()) {
      auto read = read_text_file(arguments.file);
      if (!read) return std::unexpected(read.error());
      text = std::move(*read);
    }
    auto parsed = parse_json(text, arguments.file.empty() ? "--input" : arguments.file);
    if (!parsed) return std::unexpected(parsed.error());
    row = std::move(*parsed);
  }
  // A file made for POST /predict, or a whole TensorFlow Serving request, may be given as it is.
  boost::json::object request;
  if (const auto* object = row.if_object(); object != nullptr && object->contains("instances")) {
    request = *object;
  } else if (object != nullptr && object->contains("input")) {
    request["instances"] = boost::json::array{object->at("input")};
  } else {
    request["instances"] = boost::json::array{row};
  }

  boost::json::value expected;
  if (!arguments.expect.empty()) {
    auto parsed = parse_json(arguments.expect, "--expect");
    if (!parsed) return std::unexpected(parsed.error());
    expected = std::move(*parsed);
  }

  HttpClient client = session.client();
  const auto served = find_model(client, arguments.choice);
  if (!served) return std::unexpected(served.error());
  const auto answer = client.call("POST", served->predict_path, boost::json::serialize(request));
  if (!answer) return std::unexpected(answer.error());
  if (!arguments.expect.empty()) {
    const auto predictions = predictions_of(*answer, 1);
    if (!predictions) return std::unexpected(predictions.error());
    if (!agree(predictions->front(), expected, arguments.tolerance)) {
      return give_up(Exit::kRefused, std::format("the answer is {}, not {} within {}", json_text(predictions->front()),
                                                 json_text(expected), arguments.tolerance));
    }
  }
  if (session.json) {
    print_json(*answer);
    return Exit::kOk;
  }
  const auto& instances = request["instances"];
  const auto predictions = predictions_of(*answer, instances.is_array() ? instances.get_array().size() : 1);
  if (!predictions) return std::unexpected(predictions.error());
  for (const auto& prediction : *predictions) {
    if (served->classes.empty()) {
      const auto* numbers = prediction.if_array();
      const bool one = numbers != nullptr && numbers->size() == 1;
      std::println("prediction {}", json_text(one ? numbers->front() : prediction));
      continue;
    }
    const auto shares = probabilities(*served, prediction);
    const auto decision = decide(shares, served->classes.size());
    if (!decision) return std::unexpected(decision.error());
    std::println("prediction {}  probability {:.4f}", printable(served->classes[decision->index]), decision->score);
    if (shares.get_array().size() == served->classes.size()) print_scores(*served, shares);
  }
  return Exit::kOk;
}

}  // namespace

void add_predict_command(CLI::App& app, Session& session) {
  auto* command = app.add_subcommand("predict", "Ask a model for a prediction");
  auto arguments = std::make_shared<PredictArguments>();
  command->add_option("MODEL", arguments->choice.model, "The model")->required();
  auto* version = command->add_option("--version", arguments->choice.version, "This version instead of the newest");
  command->add_option("--label", arguments->choice.label, "The version that this alias points at")->excludes(version);
  auto* input = command->add_option_group("row", "What to predict for; one of these");
  input->add_option("--input", arguments->input, "One row as JSON, flat or nested");
  input->add_option("--file", arguments->file, "The same from a file; {\"instances\": [...]} holds several rows");
  input->add_option("--values", arguments->values, "One row of numbers, separated by commas")
      ->delimiter(',')
      ->expected(1, -1);
  input->require_option(1);
  auto* expect =
      command->add_option("--expect", arguments->expect, "Fail unless this, as JSON, is the answer to the row");
  command->add_option("--tolerance", arguments->tolerance, "How far its numbers may be off")
      ->check(CLI::NonNegativeNumber)
      ->needs(expect)
      ->capture_default_str();
  command->footer(
      "Examples:\n"
      "  slipway predict boston --values 0.006,18,2.31,0,0.538,6.575,65.2,4.09,1,296,15.3,396.9,4.98\n"
      "  slipway predict fashion --label live --file examples/fashion-mnist/ankle-boot.json\n"
      "  slipway predict fashion --version 2 --file row.json --json\n"
      "  slipway predict line --values 3 --expect 7 --tolerance 0.1");
  command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return predict(session, *arguments); }; });
}

}  // namespace slipway::cli

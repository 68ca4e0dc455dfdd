#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <format>
#include <print>
#include <span>

#include "cli/command.h"
#include "cli/json_read.h"
#include "cli/picture.h"
#include "cli/served_model.h"
#include "cli/text.h"
#include "lib/dataset/gzip.h"
#include "lib/dataset/load.h"

namespace slipway::cli {
namespace {

constexpr std::size_t kRowsInRequest = 100;

struct EvaluateArguments {
  ModelChoice choice;
  std::string images, labels;
  std::size_t show = 5;
  std::vector<std::string> names;
};

// One row's pixels as JSON text, nested as `shape` says when it has as many numbers, else flat.
void append_row(std::string& out, std::span<const std::uint8_t> pixels, std::span<const std::int64_t> shape) {
  if (shape.size() <= 1) {
    out.push_back('[');
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      if (i > 0) out.push_back(',');
      out += std::to_string(pixels[i]);
    }
    out.push_back(']');
    return;
  }
  out.push_back('[');
  const auto parts = static_cast<std::size_t>(shape.front());
  for (std::size_t i = 0; i < parts; ++i) {
    if (i > 0) out.push_back(',');
    append_row(out, pixels.subspan(i * (pixels.size() / parts), pixels.size() / parts), shape.subspan(1));
  }
  out.push_back(']');
}

// Pictures beside each other, `captions` under each; as many in a line as the terminal has room for.
void print_pictures(const dataset::ImageSet& set, const std::vector<std::vector<std::string>>& captions) {
  const int height = static_cast<int>(set.row_shape[0]), width = static_cast<int>(set.row_shape[1]);
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  const char* colours = std::getenv("COLORTERM");
  const bool colour = terminal && colours != nullptr && std::getenv("NO_COLOR") == nullptr;
  const auto image_bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  const char* columns = std::getenv("COLUMNS");
  const int room = terminal ? StatusLine().width() : columns != nullptr ? std::atoi(columns) : 150;
  const auto in_line = static_cast<std::size_t>(std::max(1, room / (width + 2)));

  for (std::size_t first = 0; first < captions.size(); first += in_line) {
    const std::size_t end = std::min(captions.size(), first + in_line);
    std::vector<std::vector<std::string>> pictures;
    for (std::size_t i = first; i < end; ++i) {
      pictures.push_back(picture_lines(set.pixels.subspan(i * image_bytes, image_bytes), width, height, colour));
    }
    for (std::size_t y = 0; y < pictures.front().size(); ++y) {
      std::string line;
      for (const auto& picture : pictures) line += picture[y] + "  ";
      if (!colour) line.erase(line.find_last_not_of(' ') + 1);
      std::println("{}", line);
    }
    for (std::size_t row = 0; row < captions[first].size(); ++row) {
      std::string line;
      for (std::size_t i = first; i < end; ++i) {
        const std::string& text = captions[i][row];
        line += text + std::string(static_cast<std::size_t>(std::max<std::ptrdiff_t>(
                                       1, width + 2 - static_cast<std::ptrdiff_t>(display_width(text)))),
                                   ' ');
      }
      line.erase(line.find_last_not_of(' ') + 1);
      std::println("{}", line);
    }
    std::println("");
  }
}

class Evaluation {
 public:
  Evaluation(const Session& session, const EvaluateArguments& arguments)
      : session_(session), arguments_(arguments), client_(session.client()) {}

  Outcome<Exit> run() {
    const auto images = dataset::read_maybe_gzip_file(arguments_.images);
    if (!images) return give_up(Exit::kUsage, images.error().message);
    const auto labels = dataset::read_maybe_gzip_file(arguments_.labels);
    if (!labels) return give_up(Exit::kUsage, labels.error().message);
    auto set = dataset::read_images(*images, *labels);
    if (!set) return give_up(Exit::kUsage, set.error().message);
    if (set->rows == 0) return give_up(Exit::kUsage, std::format("{} holds no images", arguments_.images));
    set_ = std::move(*set);

    auto served = find_model(client_, arguments_.choice);
    if (!served) return std::unexpected(served.error());
    served_ = std::move(*served);
    if (served_.classes.empty()) {
      return give_up(Exit::kUsage,
                     std::format("model {} version {} is not a classifier", arguments_.choice.model, served_.version));
    }
    for (std::size_t row = 0; row < rows(); row += kRowsInRequest) {
      if (auto done = predict(row, std::min(rows(), row + kRowsInRequest)); !done) return std::unexpected(done.error());
    }
    line_.clear();
    print();
    return Exit::kOk;
  }

 private:
  [[nodiscard]] std::size_t rows() const { return static_cast<std::size_t>(set_.rows); }

  // Asks for rows [first, end) and keeps the decisions.
  Outcome<void> predict(std::size_t first, std::size_t end) {
    std::int64_t wanted = 1;
    for (const auto dimension : served_.row_shape) wanted *= dimension;
    const std::size_t row_bytes = set_.pixels.size() / rows();
    const bool nest = wanted > 0 && static_cast<std::size_t>(wanted) == row_bytes;
    std::string body = R"({"instances":[)";
    for (std::size_t row = first; row < end; ++row) {
      if (row > first) body.push_back(',');
      append_row(body, set_.pixels.subspan(row * row_bytes, row_bytes), nest ? served_.row_shape : set_.row_shape);
    }
    body += "]}";
    const auto answer = client_.call("POST", served_.predict_path, body);
    if (!answer) return std::unexpected(answer.error());
    const auto predictions = predictions_of(*answer, end - first);
    if (!predictions) return std::unexpected(predictions.error());
    for (const auto& prediction : *predictions) {
      const auto decision = decide(probabilities(served_, prediction), served_.classes.size());
      if (!decision) return std::unexpected(decision.error());
      decisions_.push_back(*decision);
    }
    line_.show(std::format("evaluating {} {:3.0f}%", bar(static_cast<double>(end) / static_cast<double>(rows()), 30),
                           100.0 * static_cast<double>(end) / static_cast<double>(rows())));
    return {};
  }

  [[nodiscard]] bool right(std::size_t row) const {
    const auto label = static_cast<std::size_t>(set_.labels[row]);
    // The classes of an image model are its labels' numbers; other names stand for the labels in order.
    return decisions_[row].index == label;
  }

  [[nodiscard]] std::string name_of(std::size_t index) const {
    if (index < arguments_.names.size()) return arguments_.names[index];
    return index < served_.classes.size() ? printable(served_.classes[index]) : std::to_string(index);
  }

  void print() const {
    std::size_t hits = 0;
    for (std::size_t row = 0; row < rows(); ++row) hits += right(row) ? 1 : 0;
    const double accuracy = static_cast<double>(hits) / static_cast<double>(rows());
    if (session_.json) {
      print_json(boost::json::object{{"model", arguments_.choice.model},
                                     {"version", served_.version},
                                     {"rows", rows()},
                                     {"correct", hits},
                                     {"accuracy", accuracy}});
      return;
    }
    if (set_.row_shape.size() == 2 && arguments_.show > 0) {
      std::vector<std::vector<std::string>> captions;
      for (std::size_t row = 0; row < std::min(arguments_.show, rows()); ++row) {
        const auto width = static_cast<std::size_t>(std::max<std::int64_t>(12, set_.row_shape[1]));
        captions.push_back({
            ("predicted  " + name_of(decisions_[row].index)).substr(0, width),
            std::format("probability {:.4f}", decisions_[row].score),
            ("truth      " + name_of(static_cast<std::size_t>(set_.labels[row]))).substr(0, width),
            right(row) ? "right" : "wrong",
        });
      }
      print_pictures(set_, captions);
    }
    std::println("{} of {} images right (model {} version {})", humane_count(hits), humane_count(rows()),
                 arguments_.choice.model, served_.version);
    std::println("test accuracy {:.4f}", accuracy);
  }

  const Session& session_;
  const EvaluateArguments& arguments_;
  HttpClient client_;
  StatusLine line_;
  dataset::ImageSet set_;
  ServedModel served_;
  std::vector<Decision> decisions_;
};

}  // namespace

void add_evaluate_command(CLI::App& app, Session& session) {
  auto* command = app.add_subcommand("evaluate", "Measure an image classifier's accuracy through the predict API");
  auto arguments = std::make_shared<EvaluateArguments>();
  command->add_option("MODEL", arguments->choice.model, "The model")->required();
  auto* version = command->add_option("--version", arguments->choice.version, "This version instead of the newest");
  command->add_option("--label", arguments->choice.label, "The version that this alias points at")->excludes(version);
  command->add_option("--images", arguments->images, "IDX file of the images, gzip or not")->required();
  command->add_option("--labels", arguments->labels, "IDX file of their labels, gzip or not")->required();
  command->add_option("--show", arguments->show, "How many images to show")->capture_default_str();
  command->add_option("--names", arguments->names, "Names of the classes to show, separated by commas")->delimiter(',');
  command->footer(
      "Example:\n"
      "  slipway evaluate fashion --images t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz --show 3\n"
      "All images are sent in requests of 100; the last line is `test accuracy 0.xxxx`.");
  command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return Evaluation(session, *arguments).run(); }; });
}

}  // namespace slipway::cli

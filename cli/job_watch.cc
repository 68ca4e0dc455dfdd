#include "cli/job_watch.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <format>
#include <print>
#include <thread>

#include "cli/json_read.h"
#include "cli/sse_reader.h"
#include "cli/text.h"

namespace slipway::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kSilence{60};       // then the stream is taken for dead and opened again
constexpr std::chrono::seconds kGatewayAway{120};  // then it is given up
constexpr Exit kInterruptedExit{130};              // as shells count Ctrl-C

bool is_over(const std::string& state) { return state == "SUCCEEDED" || state == "FAILED" || state == "CANCELLED"; }

class Watch {
 public:
  Watch(const Session& session, std::string id)
      : session_(session), id_(std::move(id)), path_("/api/v1/jobs/" + url_segment(id_)), client_(session.client()) {}

  Outcome<Exit> run() {
    // Asked first, so that an unknown job is an error at once, and not a stream to be opened again and again.
    auto job = client_.call("GET", path_);
    if (!job) return stopped() ? interrupted() : std::unexpected(job.error());
    auto last_answer = Clock::now();
    std::chrono::milliseconds pause{250};
    bool away = false;

    while (true) {
      reader_.reconnect();
      std::vector<std::string> headers = {"Accept: text/event-stream"};
      if (!reader_.last_id().empty()) headers.push_back("Last-Event-ID: " + reader_.last_id());
      const auto streamed = client_.stream(path_ + "/events", headers, kSilence, [&](std::string_view bytes) {
        last_answer = Clock::now();
        pause = std::chrono::milliseconds(250);
        away = false;
        return take(bytes);
      });
      if (stopped()) return interrupted();
      if (broken_) return give_up(Exit::kRefused, *broken_);

      job = client_.call("GET", path_);
      if (stopped()) return interrupted();
      if (job) {
        if (is_over(job_state(*job))) break;
        last_answer = Clock::now();
        if (!streamed && streamed.error().exit == Exit::kRefused) return std::unexpected(streamed.error());
      } else if (job.error().exit != Exit::kUnreachable && !job.error().message.contains("(HTTP 5")) {
        return std::unexpected(job.error());
      } else if (Clock::now() - last_answer > kGatewayAway) {
        return give_up(Exit::kUnreachable,
                       std::format("{}. The job goes on without it; watch it again with: slipway watch {}",
                                   job.error().message, id_));
      } else if (!away) {
        away = true;
        line_.print("the gateway is away; waiting for it (the job goes on)");
      }
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, std::chrono::milliseconds(2000));
    }
    line_.clear();
    return finish(*job);
  }

 private:
  bool stopped() const { return Session::interrupted(); }

  Outcome<Exit> interrupted() {
    line_.print(
        std::format("Job {} goes on. To see it again: slipway watch {}. To end it: slipway cancel {}", id_, id_, id_));
    return kInterruptedExit;
  }

  // Whether to go on reading.
  bool take(std::string_view bytes) {
    const auto events = reader_.push(bytes);
    if (!events) {
      broken_ = events.error().message;
      return false;
    }
    for (const SseEvent& event : *events) {
      boost::system::error_code not_json;
      const boost::json::value data = boost::json::parse(event.data, not_json);
      if (not_json) continue;
      show(event.name, data);
      if (is_over(job_state(data))) return false;
    }
    return true;
  }

  void show(const std::string& kind, const boost::json::value& data) {
    const std::string message = printable(text_of(data, "message"));
    const TrainProgress progress = read_progress(field(data, "progress"));
    if (kind == "progress") {
      if (progress.epochs > 0) line_.show(training_line(progress, line_.width()));
    } else if (kind == "epoch") {
      line_.print(epoch_line(progress));
    } else if (kind == "warning") {
      line_.print("warning: " + message);
    } else if (kind == "state") {
      const std::string state = job_state(data);
      if (is_over(state)) return;  // the summary says it
      std::string text = std::format("job {} {}", id_, state);
      std::ranges::transform(text.begin() + 4 + static_cast<std::ptrdiff_t>(id_.size()), text.end(),
                             text.begin() + 4 + static_cast<std::ptrdiff_t>(id_.size()),
                             [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (!message.empty()) text += ": " + message;
      line_.print(text);
    }
  }

  Outcome<Exit> finish(const boost::json::value& job) const {
    const std::string state = job_state(job);
    const Exit exit = state == "SUCCEEDED" ? Exit::kOk : state == "CANCELLED" ? Exit::kCancelled : Exit::kRefused;
    if (session_.json) {
      print_json(job);
      return exit;
    }
    const std::string time = job_run_time(job);
    if (exit == Exit::kOk) {
      std::println("model {} version {} is ready{}", printable(text_of(job, "model")), count_of(job, "version"),
                   time.empty() ? "" : std::format(" after {}", time));
      // The version's own figures: with the best weights restored they are not the last epoch's.
      auto client = session_.client();
      auto version = client.call(
          "GET", std::format("/api/v1/models/{}/versions/{}", text_of(job, "model"), count_of(job, "version")));
      if (!version) return std::unexpected(version.error());
      if (const auto metrics = metrics_text(field(*version, "metrics")); !metrics.empty()) {
        std::println("{}", metrics);
      }
    } else if (exit == Exit::kCancelled) {
      std::println("job {} was cancelled", id_);
    } else {
      return give_up(exit,
                     std::format("job {} failed{}{}{}", id_, text_of(job, "reason").empty() ? "" : " with ",
                                 printable(text_of(job, "reason")),
                                 text_of(job, "message").empty() ? "" : ": " + printable(text_of(job, "message"))));
    }
    return exit;
  }

  const Session& session_;
  const std::string id_;
  const std::string path_;
  HttpClient client_;
  SseReader reader_;
  StatusLine line_;
  std::optional<std::string> broken_;
};

}  // namespace

Outcome<Exit> watch_job(const Session& session, const std::string& id) {
  Session::catch_interrupt();
  return Watch(session, id).run();
}

std::string job_state(const boost::json::value& job) {
  std::string state = text_of(job, "state");
  std::ranges::transform(state, state.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return printable(state);
}

std::string job_run_time(const boost::json::value& job) {
  const auto start = parse_time(text_of(job, "started_at"));
  if (!start) return "";
  const auto end = parse_time(text_of(job, "finished_at"));
  return humane_duration(end.value_or(std::chrono::system_clock::now()) - *start);
}

TrainProgress read_progress(const boost::json::value& progress) {
  TrainProgress result{.epoch = static_cast<std::uint32_t>(count_of(progress, "epoch")),
                       .epochs = static_cast<std::uint32_t>(count_of(progress, "epochs")),
                       .step = count_of(progress, "step"),
                       .steps = count_of(progress, "steps"),
                       .rows_per_second = number_of(progress, "rows_per_second"),
                       .seconds_left = number_of(progress, "seconds_left", -1),
                       .learning_rate = number_of(progress, "learning_rate"),
                       .metrics = {}};
  const auto& metrics = field(progress, "metrics");
  if (metrics.is_object()) {
    for (const auto& [name, value] : metrics.get_object()) {
      result.metrics.emplace_back(std::string(name), number_of(value));
    }
  }
  return result;
}

}  // namespace slipway::cli

#include <algorithm>
#include <format>
#include <print>

#include "cli/command.h"
#include "cli/job_watch.h"
#include "cli/json_path.h"
#include "cli/json_read.h"
#include "cli/table.h"
#include "cli/text.h"
#include "lib/base/random_id.h"

namespace slipway::cli {
namespace {

struct TrainArguments {
  std::string file;
  std::vector<std::string> changes;
  bool watch = false;
};

struct JobsArguments {
  std::string id;
  std::size_t limit = 20;
};

Outcome<Exit> train(const Session& session, const TrainArguments& arguments) {
  const auto text = read_text_file(arguments.file);
  if (!text) return std::unexpected(text.error());
  auto document = parse_json(*text, arguments.file);
  if (!document) return std::unexpected(document.error());
  for (const std::string& change : arguments.changes) {
    if (const auto set = set_value(*document, change); !set)
      return give_up(Exit::kUsage, "--set " + set.error().message);
  }
  HttpClient client = session.client();
  // With the key a repeated submission, after an answer that got lost, is the same job.
  const auto job =
      client.call("POST", "/api/v1/jobs", boost::json::serialize(*document), {"Idempotency-Key: " + random_hex()});
  if (!job) return std::unexpected(job.error());
  const std::string id = text_of(*job, "id");
  if (id.empty()) return give_up(Exit::kRefused, "the server's answer names no job");
  if (arguments.watch) return watch_job(session, id);
  if (session.json) {
    print_json(*job);
  } else {
    std::println("job {} submitted", printable(id));
    std::println("watch it with: slipway watch {}", printable(id));
  }
  return Exit::kOk;
}

std::string progress_text(const boost::json::value& job) {
  const TrainProgress progress = read_progress(field(job, "progress"));
  if (progress.epochs == 0) return "-";
  return std::format("{}/{}", progress.epoch, progress.epochs);
}

void print_job(const boost::json::value& job) {
  const auto now = std::chrono::system_clock::now();
  const auto line = [](std::string_view name, const std::string& value) {
    if (!value.empty()) std::println("{:<10} {}", name, printable(value));
  };
  const TrainProgress progress = read_progress(field(job, "progress"));
  line("job", text_of(job, "id"));
  line("state", job_state(job));
  line("reason", text_of(job, "reason"));
  line("message", text_of(job, "message"));
  const auto version = count_of(job, "version");
  line("model", text_of(job, "model") + (version > 0 ? std::format(" version {}", version) : ""));
  line("data set", std::format("{} version {}", text_of(job, "dataset"), text_of(job, "dataset_version")));
  line("seed", text_of(job, "seed"));
  line("attempt", text_of(job, "attempt"));
  line("worker", text_of(job, "worker"));
  line("created", humane_time_ago(text_of(job, "created_at"), now));
  line("ran for", job_run_time(job));
  if (progress.epochs > 0) line("progress", epoch_line(progress));
}

Outcome<Exit> jobs(const Session& session, const JobsArguments& arguments) {
  HttpClient client = session.client();
  if (!arguments.id.empty()) {
    const auto job = client.call("GET", "/api/v1/jobs/" + url_segment(arguments.id));
    if (!job) return std::unexpected(job.error());
    if (session.json)
      print_json(*job);
    else
      print_job(*job);
    return Exit::kOk;
  }
  const auto items = client.list(std::format("/api/v1/jobs?limit={}", arguments.limit), arguments.limit, "before");
  if (!items) return std::unexpected(items.error());
  if (session.json) {
    print_json(*items);
    return Exit::kOk;
  }
  using enum Table::Align;
  Table table({{"job"},
               {"state"},
               {"model"},
               {"version", kRight},
               {"data set"},
               {"epoch", kRight},
               {"metrics"},
               {"created"},
               {"ran for", kRight}});
  const auto now = std::chrono::system_clock::now();
  for (const auto& job : *items) {
    const auto version = count_of(job, "version");
    table.add({text_of(job, "id"), job_state(job), text_of(job, "model"), version > 0 ? std::to_string(version) : "-",
               text_of(job, "dataset"), progress_text(job), metrics_text(field(field(job, "progress"), "metrics")),
               humane_time_ago(text_of(job, "created_at"), now), job_run_time(job)});
  }
  if (table.empty())
    std::println("No jobs yet. Submit one with: slipway train FILE --watch");
  else
    std::print("{}", table.text());
  return Exit::kOk;
}

Outcome<Exit> cancel(const Session& session, const std::string& id) {
  HttpClient client = session.client();
  const auto job = client.call("POST", "/api/v1/jobs/" + url_segment(id) + "/cancel");
  if (!job) return std::unexpected(job.error());
  if (session.json)
    print_json(*job);
  else if (job_state(*job) == "CANCELLED")
    std::println("job {} is cancelled", id);
  else
    std::println("job {} will stop; it is {} now", id, job_state(*job).empty() ? "running" : job_state(*job));
  return Exit::kOk;
}

}  // namespace

void add_job_commands(CLI::App& app, Session& session) {
  auto* train_command = app.add_subcommand("train", "Submit a training job");
  auto arguments = std::make_shared<TrainArguments>();
  train_command->add_option("FILE", arguments->file, "The job, a JSON document; - reads it from the standard input")
      ->required();
  train_command->add_flag("--watch,-w", arguments->watch, "Show its progress and wait for its end");
  train_command
      ->add_option("--set", arguments->changes,
                   "Change a value of the document: path=value, e.g. fit.epochs=10; repeatable")
      ->allow_extra_args(false);
  train_command->footer(
      "Examples:\n"
      "  slipway train examples/fashion-mnist/mlp.json --watch\n"
      "  slipway train mlp.json --set fit.epochs=20 --set compile.optimizer.config.learning_rate=0.0005\n"
      "  slipway train mlp.json --set model.config.layers.2.config.units=1024 --set publish.model=wide\n"
      "Ctrl-C while watching leaves the job running. With --json the job's document is printed, with --watch at its "
      "end.");
  train_command->callback(
      [&session, arguments] { session.run = [&session, arguments] { return train(session, *arguments); }; });

  auto* watch_command = app.add_subcommand("watch", "Show a job's progress from its beginning and wait for its end");
  auto watched = std::make_shared<std::string>();
  watch_command->add_option("JOB", *watched, "Id of the job")->required();
  watch_command->footer(
      "Example:\n  slipway watch $(slipway jobs --json | python3 -c 'import "
      "json,sys;print(json.load(sys.stdin)[0][\"id\"])')");
  watch_command->callback(
      [&session, watched] { session.run = [&session, watched] { return watch_job(session, *watched); }; });

  auto* jobs_command = app.add_subcommand("jobs", "List the jobs, newest first, or show one");
  auto listed = std::make_shared<JobsArguments>();
  jobs_command->add_option("JOB", listed->id, "Id of the job to show");
  jobs_command->add_option("--limit", listed->limit, "How many to list")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  jobs_command->footer("Examples:\n  slipway jobs --limit 5\n  slipway jobs JOB\n  slipway jobs JOB --json");
  jobs_command->callback([&session, listed] { session.run = [&session, listed] { return jobs(session, *listed); }; });

  auto* cancel_command = app.add_subcommand("cancel", "End a job that is queued or running");
  auto cancelled = std::make_shared<std::string>();
  cancel_command->add_option("JOB", *cancelled, "Id of the job")->required();
  cancel_command->footer("Example:\n  slipway cancel JOB");
  cancel_command->callback(
      [&session, cancelled] { session.run = [&session, cancelled] { return cancel(session, *cancelled); }; });
}

}  // namespace slipway::cli

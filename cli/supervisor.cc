#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <format>
#include <fstream>
#include <future>
#include <print>
#include <sstream>

#include "cli/http_client.h"
#include "cli/text.h"

namespace slipway::cli {
namespace {

constexpr std::string_view kLoopback = "127.0.0.1";

void tell(const std::string& text) { std::println(stderr, "slipway: {}", text); }

std::string address(int port) { return std::format("{}:{}", kLoopback, port); }

// Steps of stopping. A gateway still needs workers and registry for the answers it owes, a trainer the registry for its
// checkpoint; an inferencer owes nothing once the gateway has gone.
int stop_step(const std::string& role) {
  if (role == "gateway" || role == "trainer") return 0;
  return role == "inferencer" ? 1 : 2;
}

}  // namespace

struct Supervisor::Service {
  enum class State { kWaiting, kStarting, kUp, kDown, kStopped };

  std::string name;
  std::string role;
  std::filesystem::path announce;
  ChildLog log;
  Child child{};
  RestartPolicy policy{};
  State state = State::kWaiting;
  bool ready = false;
  std::map<std::string, int> ports{};  // as announced; kept from then on
  Clock::time_point next_start{};
  int starts = 0;
  std::future<bool> probe{};  // under way in a thread of its own: a service that hangs must not hold up the others

  [[nodiscard]] int port(const std::string& which, int otherwise = 0) const {
    const auto found = ports.find(which);
    return found == ports.end() ? otherwise : found->second;
  }
};

Supervisor::Supervisor(UpSettings settings, StateDir state)
    : settings_(std::move(settings)), state_(std::move(state)) {}
Supervisor::~Supervisor() = default;

Outcome<void> Supervisor::set_up() {
  const auto logs = state_.folder("logs"), run = state_.folder("run");
  if (!logs) return give_up(Exit::kRefused, logs.error().message);
  if (!run) return give_up(Exit::kRefused, run.error().message);
  const std::vector<std::pair<std::string, int>> roles = {
      {"registry", 1}, {"gateway", 1}, {"trainer", settings_.trainers}, {"inferencer", settings_.inferencers}};
  for (const auto& [role, count] : roles) {
    const auto program = settings_.bin_dir / ("slipway-" + role);
    if (count > 0 && access(program.c_str(), X_OK) != 0) {
      return give_up(Exit::kRefused, std::format("{} is not there or cannot be executed; --bin-dir says where the "
                                                 "services' programs are",
                                                 program.string()));
    }
    for (int i = 0; i < count; ++i) {
      const std::string name = std::format("{}-{}", role, i);
      services_.emplace_back(new Service{
          .name = name, .role = role, .announce = *run / (name + ".json"), .log = ChildLog(*logs / (name + ".log"))});
    }
  }
  state_.remove("up.json");
  return {};
}

const Supervisor::Service& Supervisor::one(const std::string& role) const {
  return **std::ranges::find_if(services_, [&](const auto& service) { return service->role == role; });
}

bool Supervisor::can_start(const Service& service) const {
  if (service.role == "registry") return true;
  if (one("registry").ports.empty()) return false;
  return service.role == "gateway" || !one("gateway").ports.empty();
}

std::vector<std::string> Supervisor::command_of(const Service& service) const {
  std::vector<std::string> command = {(settings_.bin_dir / ("slipway-" + service.role)).string()};
  const auto add = [&](const std::string& flag, const auto& value) {
    command.push_back(std::format("--{}={}", flag, value));
  };
  const auto own_folder = [&] { return (state_.path() / service.name).string(); };
  add("announce", service.announce.string());
  add("metrics-port", service.port("metrics"));
  if (service.role == "registry") {
    add("data-dir", (state_.path() / "registry").string());
    add("backup-dir", (state_.path() / "backups").string());
    add("bus-port", service.port("bus"));
    add("events-port", service.port("events"));
  } else {
    const Service& registry = one("registry");
    add("registry", address(registry.port("bus")));
    if (service.role != "trainer") add("registry-events", address(registry.port("events")));
  }
  if (service.role == "gateway") {
    add("http-port", service.port("http", settings_.http_port));
    add("bus-port", service.port("bus"));
    if (settings_.inferencers == 0) add("ready-alone-after-seconds", 0);
  } else if (service.role != "registry") {
    add("gateways", address(one("gateway").port("bus")));
    add(service.role == "trainer" ? "work-dir" : "cache-dir", own_folder());
  }
  if (const auto extra = settings_.extra_arguments.find(service.role); extra != settings_.extra_arguments.end()) {
    command.insert(command.end(), extra->second.begin(), extra->second.end());
  }
  return command;
}

bool Supervisor::read_announced(Service& service) {
  std::ifstream in(service.announce);
  if (!in) return false;
  std::stringstream text;
  text << in.rdbuf();
  boost::system::error_code not_json;
  const auto value = boost::json::parse(text.str(), not_json);
  if (not_json || !value.is_object()) return false;
  for (const auto& [name, port] : value.get_object()) {
    if (port.is_int64()) service.ports[std::string(name)] = static_cast<int>(port.get_int64());
  }
  return !service.ports.empty();
}

Outcome<void> Supervisor::step(Service& service, Clock::time_point now) {
  using State = Service::State;
  collect_output(service);
  if (std::string how; service.child.reap(how)) {
    collect_output(service);
    return ended(service, how, now);
  }
  if (service.state == State::kStarting && read_announced(service)) {
    service.state = State::kUp;
    service.policy.ready();
    changed_ = true;
  }
  const bool start = (service.state == State::kWaiting && can_start(service)) ||
                     (service.state == State::kDown && now >= service.next_start);
  if (!start) return {};

  std::error_code ignored;  // none there yet
  std::filesystem::remove(service.announce, ignored);
  service.policy.started(now);
  ++service.starts;
  service.state = State::kStarting;
  changed_ = true;
  if (const auto started = service.child.start(command_of(service)); !started) {
    return ended(service, started.error().message, now);
  }
  return {};
}

Outcome<void> Supervisor::ended(Service& service, const std::string& how, Clock::time_point now) {
  service.ready = false;
  changed_ = true;
  const auto wait = service.policy.ended(now);
  if (!wait) {
    service.state = Service::State::kStopped;
    std::string lines;
    for (const std::string& line : service.log.last_lines()) lines += "\n  " + printable(line);
    return give_up(Exit::kRefused,
                   std::format("{} could not be started: {} times in a row it ended before it was ready, "
                               "the last time with {}. Its last lines ({}):{}",
                               service.name, service.starts, how, service.log.file().string(),
                               lines.empty() ? "\n  (none)" : lines));
  }
  tell(std::format("{} ended with {}; starting it again in {}", service.name, how, humane_duration(*wait)));
  service.state = Service::State::kDown;
  service.next_start = now + *wait;
  return {};
}

void Supervisor::collect_output(Service& service) {
  const std::string bytes = service.child.read_output();
  if (bytes.empty()) return;
  static const bool colour = isatty(STDERR_FILENO) == 1;
  const std::string start =
      colour ? std::format("\033[2m{:>12} |\033[0m ", service.name) : std::format("{:>12} | ", service.name);
  service.log.add(bytes, [&](const std::string& line) {
    if (!settings_.quiet) std::println(stderr, "{}{}", start, line);
  });
}

void Supervisor::check_ready(Clock::time_point now) {
  static constexpr std::chrono::milliseconds kBetween{100};
  static constexpr std::chrono::seconds kProbe{1};
  bool all = true;
  for (const auto& service : services_) {
    const bool up = service->state == Service::State::kUp;
    if (service->probe.valid()) {
      if (service->probe.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
        service->ready = service->probe.get() && up;
        service->next_start = std::max(service->next_start, now + kBetween);
        changed_ = changed_ || service->ready;
      }
    } else if (!service->ready && up && now >= service->next_start) {
      service->probe = std::async(std::launch::async, [port = service->port("metrics")] {
        HttpClient client("http://" + address(port), kProbe);
        const auto answer = client.send("GET", "/readyz");
        return answer && answer->status == 200;
      });
    }
    all = all && service->ready;
  }
  changed_ = changed_ || all != all_ready_;
  all_ready_ = all;
  if (!all || was_ready_) return;

  was_ready_ = true;
  const std::string http = std::format("http://{}", address(one("gateway").port("http")));
  std::println("Slipway is up.");
  std::println("  API     {}   (description: {}/openapi.json)", http, http);
  std::println("  state   {}", state_.path().string());
  std::println("  logs    {}", (state_.path() / "logs").string());
  for (const auto& service : services_) {
    std::println("  {:<14}http://{}/metrics", service->name, address(service->port("metrics")));
  }
  std::println("Ctrl-C stops it.");
  std::fflush(stdout);
}

void Supervisor::write_up_json() {
  if (!changed_) return;
  changed_ = false;
  boost::json::array list;
  for (const auto& service : services_) {
    boost::json::object ports;
    for (const auto& [name, port] : service->ports) ports[name] = port;
    list.push_back(boost::json::object{{"name", service->name},
                                       {"role", service->role},
                                       {"pid", service->child.pid()},
                                       {"ports", std::move(ports)},
                                       {"ready", service->ready},
                                       {"restarts", std::max(0, service->starts - 1)}});
  }
  const int port = one("gateway").port("http");
  const boost::json::object document{{"http", port == 0 ? "" : "http://" + address(port)},
                                     {"pid", getpid()},
                                     {"ready", all_ready_},
                                     {"services", std::move(list)}};
  if (const auto written = state_.write("up.json", boost::json::serialize(document) + "\n"); !written) {
    tell(written.error().message);
  }
}

int Supervisor::next_timeout_ms(Clock::time_point now) const {
  int timeout = 1000;
  for (const auto& service : services_) {
    int wanted = timeout;
    if (service->state == Service::State::kStarting || service->state == Service::State::kWaiting ||
        service->probe.valid()) {
      wanted = 10;
    } else if (service->state == Service::State::kDown || (service->state == Service::State::kUp && !service->ready)) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(service->next_start - now).count();
      wanted = static_cast<int>(std::clamp<std::int64_t>(left, 1, 1000));
    }
    timeout = std::min(timeout, wanted);
  }
  return timeout;
}

void Supervisor::wait(int signals, int timeout_ms) {
  std::vector<pollfd> watched = {{.fd = signals, .events = POLLIN, .revents = 0}};
  for (const auto& service : services_) {
    if (service->child.output() >= 0)
      watched.push_back({.fd = service->child.output(), .events = POLLIN, .revents = 0});
  }
  if (poll(watched.data(), watched.size(), timeout_ms) <= 0) return;
  signalfd_siginfo info{};
  while (read(signals, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGCHLD) ++stop_signals_;
  }
}

void Supervisor::stop_all(int signals) {
  all_ready_ = false;
  for (int current = 0; current <= 2; ++current) {
    const auto concerned = [&](const auto& service) {
      return stop_step(service->role) == current && service->child.running();
    };
    for (const auto& service : services_) {
      if (concerned(service)) service->child.signal(stop_signals_ > 1 ? SIGKILL : SIGTERM);
      service->ready = service->ready && service->child.running();
    }
    const auto deadline = Clock::now() + std::chrono::duration<double>(settings_.stop_seconds);
    bool killed = stop_signals_ > 1;
    while (std::ranges::any_of(services_, concerned)) {
      if (!killed && (stop_signals_ > 1 || Clock::now() >= deadline)) {
        killed = true;
        for (const auto& service : services_) {
          if (!concerned(service)) continue;
          tell(std::format("{} has not stopped {}; killing it", service->name,
                           stop_signals_ > 1
                               ? "yet"
                               : "in " + humane_duration(std::chrono::duration<double>(settings_.stop_seconds))));
          service->child.signal(SIGKILL);
        }
      }
      wait(signals, 50);
      for (const auto& service : services_) {
        collect_output(*service);
        if (std::string how; service->child.reap(how)) {
          collect_output(*service);
          service->state = Service::State::kStopped;
          service->ready = false;
          changed_ = true;
        }
      }
      write_up_json();
    }
  }
  state_.remove("up.json");
}

Outcome<Exit> Supervisor::run() {
  if (auto done = set_up(); !done) return std::unexpected(done.error());
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&wanted, number);
  const int signals = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
  if (signals < 0) return give_up(Exit::kRefused, "no file descriptor for signals to be had");

  Outcome<void> trouble;
  const auto start_deadline = Clock::now() + std::chrono::duration<double>(settings_.start_seconds);
  while (stop_signals_ == 0 && trouble) {
    for (const auto& service : services_) {
      trouble = step(*service, Clock::now());
      if (!trouble) break;
    }
    if (!trouble) break;
    check_ready(Clock::now());
    write_up_json();
    if (!was_ready_ && Clock::now() >= start_deadline) {
      std::string late;
      for (const auto& service : services_) {
        if (!service->ready) late += (late.empty() ? "" : ", ") + service->name;
      }
      trouble =
          give_up(Exit::kRefused, std::format("not ready after {}: {}. The logs are in {}",
                                              humane_duration(std::chrono::duration<double>(settings_.start_seconds)),
                                              late, (state_.path() / "logs").string()));
      break;
    }
    wait(signals, next_timeout_ms(Clock::now()));
  }
  if (trouble) tell("stopping");
  stop_all(signals);
  close(signals);
  if (!trouble) return std::unexpected(trouble.error());
  tell("stopped");
  return Exit::kOk;
}

}  // namespace slipway::cli

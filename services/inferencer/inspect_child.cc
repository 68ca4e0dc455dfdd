#include "services/inferencer/inspect_child.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <format>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/torch_runtime/torch_runtime.h"
#include "lib/wire/codec.h"
#include "services/inferencer/caught.h"
#include "services/inferencer/mapped_file.h"
#include "services/inferencer/torch_model.h"
#include "services/inferencer/torchscript_scan.h"
#include "services/inferencer/warm_up.h"

namespace slipway::inferencer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxDimensions = 16;
constexpr std::int64_t kMaxTrialElements = std::int64_t{1} << 28;

Result<void> check_inputs_of(const Signature& signature) {
  if (signature.inputs.empty()) return fail(Code::kInvalidArgument, "the signature has no inputs");
  for (const TensorSpec& spec : signature.inputs) {
    if (spec.name.empty()) return fail(Code::kInvalidArgument, "an input of the signature has no name");
    if (spec.shape.size() > kMaxDimensions) {
      return fail(Code::kInvalidArgument, std::format("input '{}' has {} dimensions, at most {} are taken", spec.name,
                                                      spec.shape.size(), kMaxDimensions));
    }
    std::int64_t elements = 2;  // the larger trial has two rows
    for (const std::int64_t size : spec.shape) {
      if (size < -1 || size == 0)
        return fail(Code::kInvalidArgument,
                    std::format("input '{}' has a dimension of {}; wanted a positive one, or -1 for a free one",
                                spec.name, size));
      if (size > 0 && elements > kMaxTrialElements / size) {
        return fail(Code::kTooLarge,
                    std::format("input '{}' has more than {} elements in two rows", spec.name, kMaxTrialElements));
      }
      elements *= size > 0 ? size : 1;
    }
  }
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (signature.inputs[i].name == signature.inputs[j].name) {
        return fail(Code::kInvalidArgument,
                    std::format("two inputs of the signature are named '{}'", signature.inputs[i].name));
      }
    }
  }
  return {};
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { close(); }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  int get() const { return fd_; }
  void set(int fd) {
    close();
    fd_ = fd;
  }

 private:
  int fd_;
};

bool make_pipe(Fd& read_end, Fd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  read_end.set(ends[0]);
  write_end.set(ends[1]);
  return true;
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

// Until the other side closes; false: the time was up, or too much came.
bool read_all(int fd, std::vector<std::byte>& bytes, std::optional<Clock::time_point> until,
              const std::stop_token& stop = {}) {
  constexpr std::int64_t kLook = 100;  // ms between looks at `stop`
  std::array<std::byte, 65536> part;
  while (true) {
    if (until) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Clock::now()).count();
      pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
      if (left <= 0 || stop.stop_requested()) return false;
      if (poll(&wait, 1, static_cast<int>(std::min(left, kLook))) <= 0) continue;
    }
    const auto n = ::read(fd, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    bytes.insert(bytes.end(), part.begin(), part.begin() + n);
    if (bytes.size() > kMaxEnvelopeBytes) return false;
  }
}

msg::Envelope envelope_of(msg::Body body) {
  return {.correlation = 0, .deadline_ms = 0, .request_id = {}, .body = std::move(body)};
}

// Runs `work` on a thread of its own. Torch compiles recursively: what just fits here must not be too much for a thread
// of the inferencer, whose stack is a little fuller.
Result<Signature> on_half_a_stack(const std::function<Result<Signature>()>& work) {
  Result<Signature> result = fail(Code::kInternal, "the inspection's thread cannot be started");
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  std::size_t bytes = 0;
  pthread_attr_getstacksize(&attributes, &bytes);
  pthread_attr_setstacksize(&attributes, bytes / 2);
  struct Task {
    const std::function<Result<Signature>()>& work;
    Result<Signature>& result;
  } task{work, result};
  const auto run = [](void* argument) -> void* {
    auto& given = *static_cast<Task*>(argument);
    given.result = given.work();
    return nullptr;
  };
  pthread_t thread{};
  if (pthread_create(&thread, &attributes, run, &task) == 0) pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return result;
}

void limit(int what, std::uint64_t most) {
  const rlimit bounds{.rlim_cur = most, .rlim_max = most};
  setrlimit(what, &bounds);
}

}  // namespace

std::vector<std::string> child_environment(const char* const* environment) {
  constexpr std::array<std::string_view, 6> kNames{"PATH", "HOME", "LANG", "TZ", "TMPDIR", "GLIBC_TUNABLES"};
  constexpr std::array<std::string_view, 17> kBeginnings{
      "LD_",   "LC_",      "OMP_",   "GOMP_",   "KMP_",  "MKL_",  "DNNL_", "ONEDNN_", "OPENBLAS_",
      "ATEN_", "PYTORCH_", "TORCH_", "MALLOC_", "ASAN_", "LSAN_", "TSAN_", "UBSAN_"};
  std::vector<std::string> kept;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view variable = *environment;
    const auto begins = [&](std::string_view beginning) { return variable.starts_with(beginning); };
    if (std::ranges::contains(kNames, variable.substr(0, variable.find('='))) ||
        std::ranges::any_of(kBeginnings, begins))
      kept.emplace_back(variable);
  }
  return kept;
}

Result<void> scan_file(const std::filesystem::path& file) {
  auto mapped = MappedFile::open(file);
  if (!mapped) return std::unexpected(std::move(mapped).error());
  auto scanned =
      caught("cannot scan the TorchScript file", Code::kTooLarge, [&] { return scan_torchscript(mapped->bytes()); });
  if (!scanned) return std::unexpected(std::move(scanned).error());
  return {};
}

Result<Signature> inspect_file(const std::filesystem::path& file, const Signature& signature,
                               std::int64_t max_batch_rows) {
  if (auto good = check_inputs_of(signature); !good) return std::unexpected(std::move(good).error());
  auto model = TorchModel::load(file, Origin::kUploaded, signature);
  if (!model) return std::unexpected(std::move(model).error());
  auto completed = (*model)->complete(signature);
  if (!completed) return completed;
  if (auto warm = warm_up(**model, *completed, max_batch_rows); !warm) {
    return fail(Code::kInvalidArgument, std::format("a trial run of the model with a batch of zeros failed: {}",
                                                    std::move(warm).error().message));
  }
  return completed;
}

Result<Signature> inspect_in_child(const std::filesystem::path& program, const std::filesystem::path& file,
                                   const Signature& signature, const InspectLimits& limits,
                                   const std::stop_token& stop) {
  const auto broken = [](std::string_view what) {
    return fail(Code::kInternal, std::format("the inspection cannot be started: {}: {}", what, std::strerror(errno)));
  };
  Fd question_read, question_write, answer_read, answer_write;
  if (!make_pipe(question_read, question_write) || !make_pipe(answer_read, answer_write)) return broken("pipe");

  std::error_code unknown;
  const auto file_bytes = std::filesystem::file_size(file, unknown);
  if (unknown) return fail(Code::kNotFound, std::format("cannot open {}", file.string()));
  std::string path = file.string();
  std::string seconds = std::to_string(limits.time.count());
  std::string bytes = std::to_string(limits.memory_bytes + 4 * file_bytes);
  std::string rows = std::to_string(limits.max_batch_rows);
  std::string name = program.string();
  std::string verb = "inspect-file";
  std::array<char*, 7> arguments{name.data(),  verb.data(), path.data(), seconds.data(),
                                 bytes.data(), rows.data(), nullptr};

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, question_read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, answer_write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> environment = child_environment(environ);
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  pid_t child = 0;
  const int failed = posix_spawn(&child, program.c_str(), &actions, &attributes, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) {
    errno = failed;
    return broken(program.string());
  }
  question_read.close();
  answer_write.close();

  const auto until = Clock::now() + limits.time;
  const Frame question = encode(envelope_of(msg::Inspect{.file = {}, .signature = signature}));
  // A child that is gone closes its end, and SIGPIPE is ignored: the answer then is missing.
  static_cast<void>(write_all(question_write.get(), question.bytes()));
  question_write.close();
  std::vector<std::byte> answer;
  const bool in_time = read_all(answer_read.get(), answer, until, stop);
  kill(child, SIGKILL);  // whatever it still does is of no use; without effect when it has ended
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }

  if (!in_time && stop.stop_requested()) return fail(Code::kUnavailable, "the inferencer is stopping");
  if (!in_time)
    return fail(Code::kInvalidArgument,
                std::format("the TorchScript file is refused: it did not load and run within {}", limits.time));
  auto decoded = decode(answer);
  if (decoded) {
    if (auto* inspected = std::get_if<msg::Inspected>(&decoded->body)) return std::move(inspected->signature);
    if (const auto* error = std::get_if<msg::Error>(&decoded->body)) return std::unexpected(from_message(*error));
  }
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGXCPU)
    return fail(Code::kInvalidArgument,
                std::format("the TorchScript file is refused: it did not load and run within {}", limits.time));
  return fail(Code::kInvalidArgument,
              "the TorchScript file is refused: the process that loaded it crashed or ran out of memory");
}

int inspect_child_main(int argc, char** argv) {
  if (argc != 4) return 2;
  // The child must not outlive its parent, gain rights, write files or leave a core behind.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  static_cast<void>(!nice(5));                        // predictions come first
  std::ofstream("/proc/self/oom_score_adj") << 1000;  // where memory runs out, this is what goes
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_CPU, std::strtoull(argv[1], nullptr, 10));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose shadows take terabytes of address space
  limit(RLIMIT_DATA, std::strtoull(argv[2], nullptr, 10));
#endif
  // The answer goes to a descriptor of its own, so that nothing that prints can get between.
  const Fd out(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  dup2(STDERR_FILENO, STDOUT_FILENO);

  std::vector<std::byte> question;
  if (!read_all(STDIN_FILENO, question, std::nullopt)) return 2;
  const auto envelope = decode(question);
  const auto* inspect = envelope ? std::get_if<msg::Inspect>(&envelope->body) : nullptr;
  if (inspect == nullptr) return 2;
  start_torch(1);
  const auto result =
      on_half_a_stack([&] { return inspect_file(argv[0], inspect->signature, std::strtoll(argv[3], nullptr, 10)); });
  const Frame answer = encode(
      envelope_of(result ? msg::Body(msg::Inspected{.signature = *result}) : msg::Body(to_message(result.error()))));
  const bool written = write_all(out.get(), answer.bytes());
  // Without destructors: the module's own may be what crashes.
  _exit(written ? 0 : 1);
}

}  // namespace slipway::inferencer

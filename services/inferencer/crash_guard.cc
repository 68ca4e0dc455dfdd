#include "services/inferencer/crash_guard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <format>
#include <span>
#include <string>
#include <string_view>

#include "services/inferencer/quarantine.h"

namespace slipway::inferencer {
namespace {

constexpr std::array kSignals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr std::size_t kStackBytes = 64 << 10;
constexpr std::size_t kMaxPath = 4096;

// What the handler may look at: plain memory that was written before it was installed.
struct Shared {
  std::array<char, kMaxPath> folder{};  // ends with '/'
  std::size_t folder_size = 0;
  std::int64_t wait_ms = 0;
  std::array<struct sigaction, kSignals.size()> before{};
  std::atomic<bool> active = false;
  // The first scope that crashed. Its thread does not leave the handler, so that the scope stays.
  std::atomic<const CrashGuard::Scope*> crashed = nullptr;
  std::atomic<int> signal = 0;
};
Shared shared;  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): a signal handler has no other place

constinit thread_local const CrashGuard::Scope* running = nullptr;

// A stack for the handler: the thread's own may be what has run out.
class HandlerStack {
 public:
  HandlerStack() : at_(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (at_ == MAP_FAILED) return;
    const stack_t stack{.ss_sp = at_, .ss_flags = 0, .ss_size = kStackBytes};
    sigaltstack(&stack, nullptr);
  }
  ~HandlerStack() {
    if (at_ == MAP_FAILED) return;
    const stack_t none{.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
    sigaltstack(&none, nullptr);
    munmap(at_, kStackBytes);
  }
  HandlerStack(const HandlerStack&) = delete;
  HandlerStack& operator=(const HandlerStack&) = delete;

 private:
  void* at_;
};

// Text put together without anything that may not be called in a handler.
class Line {
 public:
  void add(std::string_view text) {
    const auto count = std::min(text.size(), text_.size() - size_);
    std::memcpy(text_.data() + size_, text.data(), count);
    size_ += count;
  }
  void add(std::uint64_t number) {
    std::array<char, 20> digits{};
    std::size_t at = digits.size();
    do {
      digits[--at] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number > 0);
    add(std::string_view(digits.data() + at, digits.size() - at));
  }
  void add_hex(std::span<const std::byte> bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    for (const std::byte byte : bytes) {
      add(kDigits.substr(std::to_integer<std::size_t>(byte >> 4), 1));
      add(kDigits.substr(std::to_integer<std::size_t>(byte & std::byte{15}), 1));
    }
  }
  std::string_view text() const { return {text_.data(), size_}; }
  const char* c_str() {
    text_[std::min(size_, text_.size() - 1)] = '\0';
    return text_.data();
  }

 private:
  std::array<char, kMaxPath> text_{};
  std::size_t size_ = 0;
};

}  // namespace

// In the handler: only calls that may be made there.
struct CrashHandler {
  static void leave_mark(const CrashGuard::Scope& scope, int signal) {
    Line path;
    path.add({shared.folder.data(), shared.folder_size});
    path.add_hex(std::as_bytes(std::span(scope.digest_.bytes)));
    path.add(kCrashedSuffix);
    Line mark;  // as quarantine.cc reads it
    mark.add(scope.key_.model);
    mark.add("\n");
    mark.add(scope.key_.version);
    mark.add("\nthe process that ran it crashed (signal ");
    mark.add(static_cast<std::uint64_t>(signal));
    mark.add(")\n");
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return;
    static_cast<void>(!write(fd, mark.text().data(), mark.text().size()));
    fsync(fd);
    close(fd);
  }

  static void handle(int signal, siginfo_t* info, void*) {
    const int saved = errno;
    if (const CrashGuard::Scope* scope = running; scope != nullptr && shared.active) {
      if (scope->uploaded_) leave_mark(*scope, signal);
      int none = 0;
      if (shared.signal.compare_exchange_strong(none, signal)) shared.crashed = scope;
      // Somebody who can still speak ends the process; if nobody can, the signal does.
      timespec left{.tv_sec = shared.wait_ms / 1000, .tv_nsec = (shared.wait_ms % 1000) * 1'000'000};
      while (nanosleep(&left, &left) != 0 && errno == EINTR) {
      }
    }
    struct sigaction next{};
    next.sa_handler = SIG_DFL;
    const auto at = static_cast<std::size_t>(std::ranges::find(kSignals, signal) - kSignals.begin());
    sigaction(signal, running != nullptr ? &next : &shared.before[at], nullptr);
    // A fault comes again by itself when the thread goes on where it was; a signal that was sent does not.
    if (info == nullptr || info->si_code <= 0) raise(signal);
    errno = saved;
  }

  static CrashGuard::Crash crash_of(const CrashGuard::Scope& scope, int signal) {
    return {.key = scope.key_, .digest = scope.digest_, .uploaded = scope.uploaded_, .signal = signal};
  }
};

Result<std::unique_ptr<CrashGuard>> CrashGuard::start(const Options& options) {
  const std::string folder = options.folder.string() + "/";
  constexpr std::size_t kNameBytes = 2 * sizeof(Digest) + 32;
  if (folder.size() + kNameBytes > shared.folder.size())
    return fail(Code::kInternal, std::format("the path {} is too long", folder));
  std::unique_ptr<CrashGuard> guard(new CrashGuard);
  std::ranges::copy(folder, shared.folder.begin());
  shared.folder_size = folder.size();
  shared.wait_ms = options.wait.count();
  shared.crashed = nullptr;
  shared.signal = 0;
  shared.active = true;
  if constexpr (!kCatches) return guard;
  struct sigaction action{};
  action.sa_sigaction = &CrashHandler::handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigfillset(&action.sa_mask);
  for (const int signal : kSignals) sigdelset(&action.sa_mask, signal);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    if (sigaction(kSignals[i], &action, &shared.before[i]) != 0)
      return fail(Code::kInternal, std::format("signal {} cannot be caught: {}", kSignals[i], std::strerror(errno)));
  }
  return guard;
}

CrashGuard::~CrashGuard() {
  if constexpr (kCatches) {
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &shared.before[i], nullptr);
  }
  shared.active = false;
}

CrashGuard::Scope::Scope(const msg::VersionKey& key, const Digest& digest, bool uploaded)
    : key_(key), digest_(digest), uploaded_(uploaded) {
  if constexpr (kCatches) {
    if (shared.active.load(std::memory_order_relaxed)) {
      static const thread_local HandlerStack stack;
      static_cast<void>(stack);
    }
  }
  running = this;
}

CrashGuard::Scope::~Scope() { running = nullptr; }

std::optional<CrashGuard::Crash> CrashGuard::crashed() {
  const Scope* scope = shared.crashed;
  if (scope == nullptr) return std::nullopt;
  return CrashHandler::crash_of(*scope, shared.signal);
}

}  // namespace slipway::inferencer

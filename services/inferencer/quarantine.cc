#include "services/inferencer/quarantine.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <format>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "lib/base/name.h"
#include "lib/base/random_id.h"

namespace slipway::inferencer {
namespace {

constexpr std::string_view kTryingSuffix = ".trying";
constexpr std::string_view kOldSuffix = ".quarantined";  // of releases before: the reason alone
constexpr std::size_t kMaxMarkBytes = 64 << 10;

std::filesystem::path path_of(const std::filesystem::path& folder, const Digest& digest, std::string_view suffix) {
  return folder / (to_hex(digest) + std::string(suffix));
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<std::string> lines;
  std::size_t bytes = 0;
  for (std::string line; std::getline(in, line) && (bytes += line.size() + 1) <= kMaxMarkBytes;) lines.push_back(line);
  return lines;
}

std::uint64_t number_in(std::string_view text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// A model's name as a mark says it; "" when it is none, as in one that was cut off or lost its bytes with the power.
std::string name_in(const std::string& line) { return check_name("model", line) ? line : ""; }

std::string_view name_of(Trying::Stage stage) { return stage == Trying::Stage::kLoad ? "load" : "run"; }

// What the name of a `.trying` mark says.
struct Try {
  Digest digest;
  std::string stage;
  std::string process;
};

std::optional<Try> try_of(const std::filesystem::path& path) {
  if (path.extension() != kTryingSuffix) return std::nullopt;
  const std::string name = path.stem().string();
  const auto point = name.find('.');
  const auto first = name.find('-', point == std::string::npos ? name.size() : point);
  const auto last = name.rfind('-');
  if (first == std::string::npos || last <= first) return std::nullopt;
  const auto digest = digest_from_hex(name.substr(0, point));
  if (!digest) return std::nullopt;
  return Try{.digest = *digest,
             .stage = name.substr(point + 1, first - point - 1),
             .process = name.substr(first + 1, last - first - 1)};
}

// Its process has ended: the kernel has released its lock. Also of one that has just been made and not locked yet.
bool is_left_behind(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno != ENOENT;
  const bool locked = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(fd);
  return !locked;
}

// Marks of tries at `digest` that processes left when they died; `stage` empty: at any stage.
std::vector<std::filesystem::path> tries_left(const std::filesystem::path& folder, const Digest& digest,
                                              std::string_view stage = {}) {
  std::vector<std::filesystem::path> left;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    const auto tried = try_of(entry.path());
    if (tried && tried->digest == digest && (stage.empty() || tried->stage == stage) && is_left_behind(entry.path()))
      left.push_back(entry.path());
  }
  return left;
}

std::optional<Quarantine> read_mark(const std::filesystem::path& path) {
  const std::string suffix = path.extension().string();
  if (suffix != kOldSuffix && suffix != kCrashedSuffix) return std::nullopt;
  const auto digest = digest_from_hex(path.stem().string());
  if (!digest) return std::nullopt;
  const auto lines = lines_of(path);
  if (suffix == kOldSuffix) {
    return Quarantine{
        .digest = *digest, .model = {}, .version = 0, .reason = lines.empty() ? "" : lines[0], .at_ms = 0};
  }
  // One that is cut off still says which file it was.
  const auto line = [&](std::size_t i) { return i < lines.size() ? lines[i] : std::string(); };
  return Quarantine{.digest = *digest,
                    .model = name_in(line(0)),
                    .version = number_in(line(1)),
                    .reason = line(2).empty() ? "the process that ran it crashed" : line(2),
                    .at_ms = 0};
}

}  // namespace

Result<void> leave_mark(const std::filesystem::path& folder, const Quarantine& quarantine) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  const auto path = path_of(folder, quarantine.digest, kCrashedSuffix);
  std::ofstream out(path);
  out << quarantine.model << '\n' << quarantine.version << '\n' << quarantine.reason << '\n';
  out.close();
  if (!out) return fail(Code::kInternal, std::format("cannot write {}", path.string()));
  return {};
}

std::vector<Quarantine> read_marks(const std::filesystem::path& folder) {
  std::vector<Quarantine> marks;
  const auto add = [&](Quarantine mark) {
    if (!std::ranges::contains(marks, mark.digest, &Quarantine::digest)) marks.push_back(std::move(mark));
  };
  std::map<Digest, std::set<std::string>> deaths;  // the processes
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    if (auto mark = read_mark(entry.path())) add(std::move(*mark));
    const auto tried = try_of(entry.path());
    if (!tried || !is_left_behind(entry.path())) continue;
    auto& processes = deaths[tried->digest];
    processes.insert(tried->process);
    if (std::ssize(processes) < kStrikes) continue;
    const auto lines = lines_of(entry.path());  // "VERSION MODEL"
    const std::string line = lines.empty() ? "" : lines[0];
    const auto space = line.find(' ');
    add({.digest = tried->digest,
         .model = space == std::string::npos ? "" : name_in(line.substr(space + 1)),
         .version = number_in(line),
         .reason = std::format("the process ended {} times in a row while it was loaded or first run", kStrikes),
         .at_ms = 0});
  }
  return marks;
}

void remove_marks(const std::filesystem::path& folder, const Digest& digest) {
  std::error_code failed;
  // Releases before wrote all tries into one file.
  for (const std::string_view suffix : {kCrashedSuffix, kTryingSuffix, kOldSuffix})
    std::filesystem::remove(path_of(folder, digest, suffix), failed);
  for (const auto& path : tries_left(folder, digest)) std::filesystem::remove(path, failed);
}

Trying::Trying(const std::filesystem::path& folder, const msg::VersionKey& key, const Digest& digest, Stage stage)
    : folder_(folder), digest_(digest), stage_(stage), fd_(-1) {
  static const std::string start = random_hex(64);
  static std::atomic<std::uint64_t> count = 0;
  // With the number, since a fork has its parent's `start`.
  path_ =
      path_of(folder, digest, std::format(".{}-{}x{}-{}{}", name_of(stage), start, getpid(), ++count, kTryingSuffix));
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return;
  flock(fd_, LOCK_EX | LOCK_NB);
  const std::string line = std::format("{} {}\n", key.version, key.model);
  static_cast<void>(!write(fd_, line.data(), line.size()));
}

Trying::~Trying() {
  try {
    std::error_code failed;
    if (fd_ >= 0) std::filesystem::remove(path_, failed);
    for (const auto& path : tries_left(folder_, digest_, name_of(stage_))) std::filesystem::remove(path, failed);
  } catch (const std::exception&) {  // want of memory: the strikes stay
  }
  if (fd_ >= 0) close(fd_);
}

}  // namespace slipway::inferencer

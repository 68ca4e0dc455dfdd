#include "services/inferencer/quarantine.h"

#include <algorithm>
#include <charconv>
#include <format>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

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

// Lines of a `.trying` mark are "VERSION MODEL", one a try.
Quarantine struck_out(const Digest& digest, const std::string& line) {
  const auto space = line.find(' ');
  return {.digest = digest,
          .model = space == std::string::npos ? "" : line.substr(space + 1),
          .version = number_in(line),
          .reason = std::format("the process ended {} times in a row while it was loaded", kStrikes),
          .at_ms = 0};
}

std::optional<Quarantine> read_mark(const std::filesystem::path& path) {
  const std::string suffix = path.extension().string();
  const auto digest = digest_from_hex(path.stem().string());
  if (!digest) return std::nullopt;
  const auto lines = lines_of(path);
  if (suffix == kTryingSuffix) {
    if (std::ssize(lines) < kStrikes) return std::nullopt;
    return struck_out(*digest, lines.back());
  }
  if (suffix == kOldSuffix) {
    return Quarantine{
        .digest = *digest, .model = {}, .version = 0, .reason = lines.empty() ? "" : lines[0], .at_ms = 0};
  }
  if (suffix != kCrashedSuffix) return std::nullopt;
  // One that is cut off still says which file it was.
  const auto line = [&](std::size_t i) { return i < lines.size() ? lines[i] : std::string(); };
  return Quarantine{.digest = *digest,
                    .model = line(0),
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
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    auto mark = read_mark(entry.path());
    if (mark && !std::ranges::contains(marks, mark->digest, &Quarantine::digest)) marks.push_back(std::move(*mark));
  }
  return marks;
}

void remove_marks(const std::filesystem::path& folder, const Digest& digest) {
  std::error_code failed;
  for (const std::string_view suffix : {kCrashedSuffix, kTryingSuffix, kOldSuffix})
    std::filesystem::remove(path_of(folder, digest, suffix), failed);
}

Trying::Trying(const std::filesystem::path& folder, const msg::VersionKey& key, const Digest& digest)
    : path_(path_of(folder, digest, kTryingSuffix)) {
  std::ofstream out(path_, std::ios::app);
  out << key.version << ' ' << key.model << '\n';
}

Trying::~Trying() {
  std::error_code failed;
  std::filesystem::remove(path_, failed);
}

}  // namespace slipway::inferencer

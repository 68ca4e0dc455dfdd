#include "lib/base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace slipway {
namespace {

namespace fs = std::filesystem;

// A mounted hierarchy: which part of it (`root`, a path as /proc/self/cgroup gives them) is seen where.
struct Mount {
  bool v2 = false;
  std::vector<std::string> controllers;  // v1
  std::string root;
  std::string point;
};

// Where this process is in a hierarchy.
struct Place {
  std::vector<std::string> controllers;  // none: v2
  std::string path;
};

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream{std::string(text)};
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// The kernel writes space, tab, newline and backslash as \ooo.
std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      plain.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

// "36 35 98:0 /root /point rw,noatime shared:1 - cgroup2 source rw,nsdelegate"
std::vector<Mount> mounts(const fs::path& root) {
  std::vector<Mount> found;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const auto before = split(std::string_view(line).substr(0, dash), ' ');
    const auto after = split(std::string_view(line).substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3 || (after[0] != "cgroup" && after[0] != "cgroup2")) continue;
    found.push_back({.v2 = after[0] == "cgroup2",
                     .controllers = split(after[2], ','),
                     .root = unescape(before[3]),
                     .point = unescape(before[4])});
  }
  return found;
}

// "4:cpu,cpuacct:/path" of v1, "0::/path" of v2
std::vector<Place> places(const fs::path& root) {
  std::vector<Place> found;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first == std::string::npos ? first : first + 1);
    if (second == std::string::npos) continue;
    found.push_back({.controllers = split(std::string_view(line).substr(first + 1, second - first - 1), ','),
                     .path = line.substr(second + 1)});
  }
  return found;
}

// Whether a path is nothing but "/..": in a cgroup namespace, what is above the namespace's own root is written so.
bool is_above(std::string_view path) {
  bool up = false;
  for (; path.starts_with("/.."); path.remove_prefix(3)) up = true;
  return up && path.empty();
}

// What follows `root` in `path`; nullopt: `path` is not below it. Without a name for what is between the two, it is "".
std::optional<std::string> below(std::string_view root, std::string_view path) {
  if (root == "/") root = "";
  if (path == "/") path = "";
  if (path.starts_with(root) && !path.substr(root.size()).starts_with("/..") &&
      (path.size() == root.size() || path[root.size()] == '/')) {
    return std::string(path.substr(root.size()));
  }
  if (is_above(root) && !path.starts_with("/..")) return "";
  return std::nullopt;
}

// The group's folder and those of its ancestors, up to the mount. A folder that is not there, as in a container that
// sees its own groups only under the names that they have outside, is left out.
std::vector<fs::path> folders_of(const Mount& mount, const Place& place, const fs::path& root) {
  const auto rest = below(mount.root, place.path);
  if (!rest) return {};
  const fs::path top = root / fs::path(mount.point).relative_path();
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (fs::path at = fs::path(*rest).relative_path(); !at.empty(); at = at.parent_path()) {
    if (fs::is_directory(top / at, ignored)) folders.push_back(top / at);
  }
  folders.push_back(top);
  return folders;
}

// The first words of a file as numbers, as many as there are.
std::vector<std::uint64_t> numbers(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::uint64_t> found;
  std::string word;
  while (found.size() < 2 && file >> word) {
    if (word.find_first_not_of("0123456789") != std::string::npos) break;  // "max", "-1"
    try {
      found.push_back(std::stoull(word));
    } catch (const std::out_of_range&) {
      found.push_back(std::numeric_limits<std::uint64_t>::max());
    }
  }
  return found;
}

std::optional<std::uint64_t> number(const fs::path& path) {
  const auto found = numbers(path);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

std::optional<std::uint64_t> statistic(const fs::path& path, std::string_view wanted) {
  std::ifstream file(path);
  std::string name;
  std::uint64_t value = 0;
  while (file >> name >> value) {
    if (name == wanted) return value;
  }
  return std::nullopt;
}

template <class T>
void lower(std::optional<T>& least, T value) {
  least = std::min(least.value_or(value), value);
}

void add_quota(CgroupLimits& limits, std::uint64_t quota, std::uint64_t period) {
  if (quota > 0 && period > 0) lower(limits.cores, static_cast<double>(quota) / static_cast<double>(period));
}

// Page cache that has not been used lately is given up before anything is refused.
void add_memory(CgroupLimits& limits, std::uint64_t limit, std::optional<std::uint64_t> used,
                std::optional<std::uint64_t> cache) {
  constexpr std::uint64_t kNone = std::uint64_t{1} << 62;  // v1 writes "no limit" as 2^63 less a page
  if (limit >= kNone) return;
  lower(limits.memory_bytes, limit);
  if (!used) return;
  const std::uint64_t taken = *used - std::min(*used, cache.value_or(0));
  lower(limits.memory_left, limit - std::min(limit, taken));
}

void read_v2(const fs::path& folder, CgroupLimits& limits) {
  if (const auto quota = numbers(folder / "cpu.max"); quota.size() == 2) add_quota(limits, quota[0], quota[1]);
  if (const auto limit = number(folder / "memory.max")) {
    add_memory(limits, *limit, number(folder / "memory.current"), statistic(folder / "memory.stat", "inactive_file"));
  }
}

void read_v1_cpu(const fs::path& folder, CgroupLimits& limits) {
  const auto quota = number(folder / "cpu.cfs_quota_us");
  const auto period = number(folder / "cpu.cfs_period_us");
  if (quota && period) add_quota(limits, *quota, *period);
}

void read_v1_memory(const fs::path& folder, CgroupLimits& limits) {
  const auto used = number(folder / "memory.usage_in_bytes");
  const auto cache = statistic(folder / "memory.stat", "total_inactive_file");
  // The second also knows of ancestors that are not mounted here.
  for (const auto limit :
       {number(folder / "memory.limit_in_bytes"), statistic(folder / "memory.stat", "hierarchical_memory_limit")}) {
    if (limit) add_memory(limits, *limit, used, cache);
  }
}

bool has(const std::vector<std::string>& names, std::string_view wanted) {
  return std::ranges::contains(names, wanted);
}

}  // namespace

CgroupLimits read_cgroup(const fs::path& root) {
  CgroupLimits limits;
  const auto mounted = mounts(root);
  for (const Place& place : places(root)) {
    for (const Mount& mount : mounted) {
      const auto is_of = [&](std::string_view controller) {
        return !mount.v2 && has(place.controllers, controller) && has(mount.controllers, controller);
      };
      const bool v2 = mount.v2 && place.controllers.empty();
      const bool cpu = is_of("cpu");
      const bool memory = is_of("memory");
      if (!v2 && !cpu && !memory) continue;
      for (const fs::path& folder : folders_of(mount, place, root)) {
        if (v2) read_v2(folder, limits);
        if (cpu) read_v1_cpu(folder, limits);
        if (memory) read_v1_memory(folder, limits);
      }
    }
  }
  return limits;
}

}  // namespace slipway

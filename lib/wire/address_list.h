// Which addresses a worker should dial: given literally, by name, or in a file that may change. Blocks on DNS and disk.
#pragma once

#include <set>
#include <span>
#include <string>

namespace slipway {

struct Addresses {
  std::set<std::string> found;  // "127.0.0.1:7070", "[::1]:7070"
  bool complete = true;         // false: a name or a file could not be read, so that some may be missing
};

// `places` are "host:port", a name standing for all its addresses, or "@/path/of/a/file" with one of those on each line
// ('#' begins a comment). The file is read anew each time. Never fails: what cannot be found is not there.
// Threads: any.
[[nodiscard]] Addresses look_up(std::span<const std::string> places);

}  // namespace slipway

#include "lib/wire/address_list.h"

#include <netdb.h>

#include <cstring>
#include <fstream>
#include <string_view>

#include "lib/base/endpoint.h"

namespace slipway {
namespace {

std::string_view trimmed(std::string_view line) {
  line = line.substr(0, line.find('#'));
  const auto first = line.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
}

// Every literal address of "host:port" or "[host]:port".
void resolve(const std::string& place, Addresses& all) {
  const auto colon = place.rfind(':');
  if (colon == std::string::npos) {
    all.complete = false;
    return;
  }
  const std::string host(without_brackets(std::string_view(place).substr(0, colon)));
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0) {
    all.complete = false;
    return;
  }
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) continue;
    const bool is_v6 = entry->ai_family == AF_INET6;
    all.found.insert((is_v6 ? "[" + std::string(text) + "]" : text) + place.substr(colon));
  }
  freeaddrinfo(list);
}

}  // namespace

Addresses look_up(std::span<const std::string> places) {
  Addresses all;
  for (const std::string& place : places) {
    if (!place.starts_with('@')) {
      resolve(place, all);
      continue;
    }
    std::ifstream file(place.substr(1));
    if (!file) all.complete = false;
    for (std::string line; std::getline(file, line);) {
      if (const auto entry = trimmed(line); !entry.empty()) resolve(std::string(entry), all);
    }
  }
  return all;
}

}  // namespace slipway

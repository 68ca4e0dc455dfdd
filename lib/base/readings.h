// Numbers that a room counts and lib/obs shows on /metrics, without the one knowing the other.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace slipway {

// One number of this process under a metric's name: a counter when the name ends in "_total", else a gauge. Several
// under one name are added up, and a counter keeps what those that have gone had counted.
// Threads: `read` is called from any, while the Reading lives, and must not make or destroy one.
class Reading {
 public:
  using Read = std::function<double()>;
  Reading(std::string name, std::string help, Read read);
  ~Reading();
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  struct Value {
    std::string name;
    std::string help;
    double value = 0;
  };
  // All names of this process, sorted. Any thread.
  [[nodiscard]] static std::vector<Value> all();

 private:
  const std::string name_;
  const Read read_;
};

}  // namespace slipway

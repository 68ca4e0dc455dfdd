#include "lib/base/readings.h"

#include <map>
#include <mutex>
#include <set>

namespace slipway {
namespace {

struct Family {
  std::string help;
  double past = 0;  // of counters that have gone
  std::set<const Reading::Read*> live;
};

struct Families {
  std::mutex mutex;
  std::map<std::string, Family> by_name;
};

// Never destroyed: a Reading may outlive whatever runs at exit.
Families& families() {
  static auto* all = new Families;
  return *all;
}

}  // namespace

Reading::Reading(std::string name, std::string help, Read read) : name_(std::move(name)), read_(std::move(read)) {
  Families& all = families();
  const std::lock_guard lock(all.mutex);
  Family& family = all.by_name[name_];
  family.help = std::move(help);
  family.live.insert(&read_);
}

Reading::~Reading() {
  Families& all = families();
  const std::lock_guard lock(all.mutex);
  Family& family = all.by_name[name_];
  if (name_.ends_with("_total")) family.past += read_();
  family.live.erase(&read_);
}

std::vector<Reading::Value> Reading::all() {
  Families& all = families();
  const std::lock_guard lock(all.mutex);
  std::vector<Value> values;
  for (const auto& [name, family] : all.by_name) {
    Value value{.name = name, .help = family.help, .value = family.past};
    for (const Read* read : family.live) value.value += (*read)();
    values.push_back(std::move(value));
  }
  return values;
}

}  // namespace slipway

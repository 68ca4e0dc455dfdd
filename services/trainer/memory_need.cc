#include "services/trainer/memory_need.h"

#include <algorithm>
#include <format>
#include <fstream>
#include <string>
#include <variant>

#include "lib/keras/parameters.h"
#include "lib/tensor/shape.h"

namespace slipway::trainer {
namespace {

constexpr double kBytes = sizeof(float);
constexpr std::uint64_t kMost = std::uint64_t{1} << 62;

int slots_of(const keras::Optimizer& optimizer) {
  using Kind = keras::Optimizer::Kind;
  switch (optimizer.kind) {
    case Kind::kSgd:
      return optimizer.momentum > 0 ? 1 : 0;
    case Kind::kAdam:
    case Kind::kAdamW:
      return optimizer.amsgrad ? 3 : 2;
    case Kind::kRmsprop:
      return 1 + (optimizer.centered ? 1 : 0) + (optimizer.momentum > 0 ? 1 : 0);
  }
  return 0;
}

std::uint64_t machine_left() {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) * 1024;  // given in KiB
  }
  return kMost;
}

// Page cache counts as used but is given up before anything is refused.
std::uint64_t cgroup_left(const std::string& limit_file, const std::string& used_file, const std::string& stat_file,
                          const std::string& cache_key) {
  std::uint64_t limit = 0;
  std::uint64_t used = 0;
  std::ifstream limits(limit_file);
  std::ifstream uses(used_file);
  if (!(limits >> limit) || !(uses >> used)) return kMost;  // also "max"
  std::ifstream stat(stat_file);
  std::string key;
  std::uint64_t value = 0;
  while (stat >> key >> value) {
    if (key == cache_key) used -= std::min(used, value);
  }
  return std::min(kMost, limit - std::min(limit, used));
}

std::string gib(std::uint64_t bytes) { return std::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30)); }

bool keeps_best(const keras::JobSpec& spec) {
  return std::ranges::any_of(spec.callbacks, [](const auto& callback) {
    const auto* early = std::get_if<keras::EarlyStopping>(&callback);
    return early != nullptr && early->restore_best_weights;
  });
}

}  // namespace

std::uint64_t memory_need(const keras::JobSpec& spec) {
  const auto count = keras::parameters_of(spec.architecture);
  const auto trained = static_cast<double>(count.trainable);
  const auto weights = trained + static_cast<double>(count.fixed);
  const double kept = weights * (keeps_best(spec) ? 2 : 1) + trained * slots_of(spec.optimizer);
  auto row =
      static_cast<double>(element_count(spec.architecture.input_shape).value());  // bounded when the job was read
  for (const auto& layer : spec.architecture.layers) {
    const bool makes_numbers = std::holds_alternative<keras::Dense>(layer.kind) ||
                               std::holds_alternative<keras::Conv2D>(layer.kind) ||
                               std::holds_alternative<keras::Pooling2D>(layer.kind) ||
                               std::holds_alternative<keras::BatchNormalization>(layer.kind);
    if (!makes_numbers) continue;  // a view of what came in, or too little to matter
    row += static_cast<double>(element_count(layer.output_shape).value());
  }
  const double bytes = kBytes * (3 * kept + trained + row * static_cast<double>(spec.fit.batch_size));
  return bytes < static_cast<double>(kMost) ? static_cast<std::uint64_t>(bytes) : kMost;
}

std::uint64_t memory_left() {
  const std::string v2 = "/sys/fs/cgroup/";
  const std::string v1 = "/sys/fs/cgroup/memory/";
  return std::min({machine_left(),
                   cgroup_left(v2 + "memory.max", v2 + "memory.current", v2 + "memory.stat", "inactive_file"),
                   cgroup_left(v1 + "memory.limit_in_bytes", v1 + "memory.usage_in_bytes", v1 + "memory.stat",
                               "total_inactive_file")});
}

Result<void> check_memory(const keras::JobSpec& spec, std::uint64_t data, std::uint64_t bytes_left) {
  const std::uint64_t need = memory_need(spec);
  if (need <= bytes_left && data <= bytes_left - need) return {};
  return fail(Code::kTooLarge,
              std::format("training {} parameters in batches of {} and keeping checkpoints takes at least {}, its data "
                          "{}, this trainer has {} left",
                          keras::parameter_count(spec.architecture), spec.fit.batch_size, gib(need), gib(data),
                          gib(bytes_left)));
}

}  // namespace slipway::trainer

#include "services/trainer/memory_need.h"

#include <algorithm>
#include <format>
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

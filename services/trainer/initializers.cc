#include "services/trainer/initializers.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>

namespace slipway::trainer {
namespace {

using keras::Initializer;

// Standard deviation of a unit normal cut off at two: Keras divides by it to keep the variance asked for.
constexpr double kTruncatedStddev = 0.87962566103423978;

// Draws beyond two standard deviations are drawn again.
torch::Tensor truncated_normal(torch::IntArrayRef shape, double mean, double stddev, const at::Generator& generator) {
  auto result = torch::empty(shape);
  float* values = result.data_ptr<float>();
  const std::int64_t count = result.numel();
  std::int64_t have = 0;
  while (have < count) {
    // At least 16: smaller draws use another algorithm with state of its own.
    const auto drawn = torch::empty({std::max<std::int64_t>(count - have, 16)}).normal_(0, 1, generator);
    const float* z = drawn.data_ptr<float>();
    for (std::int64_t i = 0; i < drawn.numel() && have < count; ++i) {
      if (std::abs(z[i]) <= 2) values[have++] = static_cast<float>(mean + stddev * static_cast<double>(z[i]));
    }
  }
  return result;
}

torch::Tensor variance_scaling(const Initializer& initializer, torch::IntArrayRef shape, Fans fans,
                               const at::Generator& generator) {
  double fan = (fans.in + fans.out) / 2;
  if (initializer.fan == Initializer::Fan::kIn) fan = fans.in;
  if (initializer.fan == Initializer::Fan::kOut) fan = fans.out;
  const double variance = initializer.scale / std::max(fan, 1.0);
  switch (initializer.distribution) {
    case Initializer::Distribution::kTruncatedNormal:
      return truncated_normal(shape, 0, std::sqrt(variance) / kTruncatedStddev, generator);
    case Initializer::Distribution::kUntruncatedNormal:
      return torch::empty(shape).normal_(0, std::sqrt(variance), generator);
    case Initializer::Distribution::kUniform:
      break;
  }
  const double limit = std::sqrt(3 * variance);
  return torch::empty(shape).uniform_(-limit, limit, generator);
}

}  // namespace

std::uint64_t mix_seed(std::uint64_t a, std::uint64_t b) {
  // SplitMix64's finaliser over the pair.
  std::uint64_t x = a + 0x9e3779b97f4a7c15ULL * (b + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

torch::Tensor initialize(const Initializer& initializer, torch::IntArrayRef shape, Fans fans, std::uint64_t seed) {
  // A generator reads 32 bits of its seed, so all 64 are mixed into them.
  const auto generator = at::detail::createCPUGenerator(mix_seed(initializer.seed.value_or(seed), 0) >> 32);
  switch (initializer.kind) {
    case Initializer::Kind::kZeros:
      return torch::zeros(shape);
    case Initializer::Kind::kOnes:
      return torch::ones(shape);
    case Initializer::Kind::kConstant:
      return torch::full(shape, initializer.value, torch::kFloat32);
    case Initializer::Kind::kRandomNormal:
      return torch::empty(shape).normal_(initializer.mean, initializer.stddev, generator);
    case Initializer::Kind::kRandomUniform:
      return torch::empty(shape).uniform_(initializer.min, initializer.max, generator);
    case Initializer::Kind::kTruncatedNormal:
      return truncated_normal(shape, initializer.mean, initializer.stddev, generator);
    case Initializer::Kind::kVarianceScaling:
      break;
  }
  return variance_scaling(initializer, shape, fans, generator);
}

}  // namespace slipway::trainer

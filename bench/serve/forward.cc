// bench-forward MODEL.pt ELEMENTS SECONDS: forward passes per second at batch 1 on one thread, as one number.
#include <chrono>
#include <cstdlib>
#include <print>

#include "lib/torch_runtime/torch_runtime.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::println(stderr, "usage: bench-forward MODEL.pt SHAPE SECONDS, e.g. bench-forward model.pt 28,28 3");
    return 2;
  }
  slipway::start_torch(1);
  std::vector<std::int64_t> shape{1};
  for (const char* at = argv[2]; *at != '\0';) {
    char* end = nullptr;
    shape.push_back(std::strtoll(at, &end, 10));
    at = *end == ',' ? end + 1 : end;
  }
  auto module = torch::jit::load(argv[1]);
  module.eval();
  module = torch::jit::freeze(module);
  const c10::InferenceMode guard;
  const auto row = torch::randint(0, 256, shape).to(torch::kFloat32);
  const auto forwards = [&](double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    std::int64_t count = 0;
    std::chrono::duration<double> passed{};
    do {
      for (int i = 0; i < 100; ++i) module.forward({row});
      count += 100;
      passed = Clock::now() - begin;
    } while (passed.count() < seconds);
    return static_cast<double>(count) / passed.count();
  };
  forwards(0.5);
  std::println("{:.0f}", forwards(std::atof(argv[3])));
}

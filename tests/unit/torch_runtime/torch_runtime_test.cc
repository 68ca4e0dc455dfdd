#include "lib/torch_runtime/torch_runtime.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <thread>
#include <vector>

namespace slipway {
namespace {

// The network on which the default fuser of Debian's LibTorch never returns from the third backward pass.
torch::jit::Module mlp() {
  torch::jit::Module module("mlp");
  torch::manual_seed(1);
  const auto add = [&](const std::string& name, const torch::Tensor& value) {
    module.register_parameter(name, value.set_requires_grad(true), false);
  };
  add("w1", torch::randn({64, 256}) * 0.05);
  add("w2", torch::randn({256, 256}) * 0.05);
  add("w3", torch::randn({256, 256}) * 0.05);
  add("w4", torch::randn({256, 10}) * 0.05);
  module.define(R"(
    def forward(self, x):
        x = torch.relu(torch.matmul(x, self.w1))
        x = torch.relu(torch.matmul(x, self.w2))
        x = torch.relu(torch.matmul(x, self.w3))
        return torch.matmul(x, self.w4)
  )");
  return module;
}

// Loss after ten steps of gradient descent.
float train(torch::jit::Module module) {
  const auto x = torch::ones({32, 64});
  const auto y = torch::zeros({32}, torch::kLong);
  std::vector<torch::Tensor> parameters;
  for (const auto& parameter : module.parameters()) parameters.push_back(parameter);
  torch::optim::SGD optimizer(parameters, 0.1);
  float loss_value = 0;
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const auto loss = torch::nn::functional::cross_entropy(module.forward({x}).toTensor(), y);
    loss.backward();
    optimizer.step();
    loss_value = loss.item<float>();
  }
  return loss_value;
}

class TorchRuntime : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }
};

// Fact 1 of the measured traps: without the empty fusion strategy this runs into the test's time limit.
TEST_F(TorchRuntime, TrainsAThreeLayerMlpWithoutHangingInTheFuser) {
  const float loss = train(mlp());
  EXPECT_LT(loss, 2.3F);
}

// Facts 2 and 3: a pin that holds for the calling thread only would hang here.
TEST_F(TorchRuntime, TrainsInAThreadOtherThanTheOneThatStartedTorch) {
  float loss = 0;
  std::thread([&] { loss = train(mlp()); }).join();
  EXPECT_LT(loss, 2.3F);
}

TEST_F(TorchRuntime, TrainingTwiceGivesTheSameBits) { EXPECT_EQ(train(mlp()), train(mlp())); }

TEST_F(TorchRuntime, ThreadCountHoldsInThreadsStartedLater) {
  int threads = 0;
  std::thread([&] { threads = at::get_num_threads(); }).join();
  EXPECT_EQ(threads, 1);
  EXPECT_EQ(at::get_num_interop_threads(), 1);
}

TEST_F(TorchRuntime, AThreadTakesOverAnotherTeamSizeWhenItAsks) {
  std::vector<int> sizes;
  std::thread([&] {
    use_torch_threads();
    sizes.push_back(at::get_num_threads());
    std::thread([] { set_torch_threads(3); }).join();
    sizes.push_back(at::get_num_threads());
    use_torch_threads();
    sizes.push_back(at::get_num_threads());
  }).join();
  EXPECT_EQ(sizes, (std::vector{1, 1, 3}));
  set_torch_threads(1);
}

TEST_F(TorchRuntime, StartingTwiceIsHarmless) {
  start_torch(1);
  EXPECT_EQ(at::get_num_threads(), 1);
}

TEST_F(TorchRuntime, TheBuildHasTheFastBlas) {
  const BlasReport report = check_blas();
  EXPECT_EQ(report.warning, "") << report.library;
  EXPECT_TRUE(report.config.contains("OpenBLAS")) << report.config;
}

// OpenBLAS' thread-local storage leaves a quarter of such a stack; CivetWeb's workers ended the process on it.
TEST_F(TorchRuntime, AThreadThatAsksForASmallStackCanUseAllOfIt) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 102'400), 0);
  const auto work = [](void*) -> void* {
    volatile char space[90'000];
    for (std::size_t i = 0; i < sizeof space; i += 512) space[i] = 1;
    return nullptr;
  };
  pthread_t thread{};
  ASSERT_EQ(pthread_create(&thread, &attributes, work, nullptr), 0);
  EXPECT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
}

TEST_F(TorchRuntime, DeviceIsTheCpu) { EXPECT_TRUE(torch_device().is_cpu()); }

}  // namespace
}  // namespace slipway

#include "lib/torch_runtime/memory_account.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <thread>
#include <vector>

#include "lib/torch_runtime/memory.h"
#include "lib/torch_runtime/torch_runtime.h"

namespace slipway {
namespace {

class MemoryAccountTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }
};

TEST_F(MemoryAccountTest, CountsWhatItsThreadAllocatesUntilItIsReleased) {
  MemoryAccount account;
  at::Tensor kept;
  {
    const MemoryAccount::Charge charge(account);
    kept = at::zeros({1000});
    EXPECT_EQ(account.held_bytes(), 4000);
    const auto passing = at::zeros({1000});
    EXPECT_EQ(account.held_bytes(), 8000);
  }
  EXPECT_EQ(account.held_bytes(), 4000);
  const auto others = at::zeros({1000});  // nobody's
  EXPECT_EQ(account.held_bytes(), 4000);
  std::thread([&] { kept.reset(); }).join();
  EXPECT_EQ(account.held_bytes(), 0);
}

TEST_F(MemoryAccountTest, RefusesWhatGoesBeyondTheLimitAndCountsItNot) {
  MemoryAccount account(4000);
  const MemoryAccount::Charge charge(account);
  const auto exact = at::empty({1000});
  EXPECT_EQ(charge.refused_bytes(), 0U);
  EXPECT_ANY_THROW(at::empty({1}));
  EXPECT_EQ(charge.refused_bytes(), 4U);
  EXPECT_ANY_THROW(at::empty({std::int64_t{1} << 60}));
  EXPECT_EQ(account.held_bytes(), 4000);
  account.set_limit(4004);
  EXPECT_NO_THROW(at::empty({1}));
}

TEST_F(MemoryAccountTest, ASizeThatWouldOverflowIsRefusedAndNotCounted) {
  MemoryAccount account;
  const auto refuse = [](std::size_t bytes) { EXPECT_ANY_THROW(c10::GetCPUAllocator()->allocate(bytes)) << bytes; };
  const auto refuse_all = [&] {
    for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - 10, SIZE_MAX - 64, std::size_t{1} << 62}) refuse(bytes);
  };
  refuse_all();
  const MemoryAccount::Charge charge(account);
  refuse_all();
  EXPECT_EQ(account.held_bytes(), 0);
}

TEST_F(MemoryAccountTest, TheInnermostChargeCounts) {
  MemoryAccount outer;
  MemoryAccount inner;
  const MemoryAccount::Charge first(outer);
  at::Tensor a, b;
  {
    const MemoryAccount::Charge second(inner);
    a = at::empty({1000});
  }
  b = at::empty({500});
  EXPECT_EQ(inner.held_bytes(), 4000);
  EXPECT_EQ(outer.held_bytes(), 2000);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(MemoryAccountTest, OtherBlocksCountWhileTheirChargeLives) {
  MemoryAccount account(1'000'000);
  {
    const MemoryAccount::Charge charge(account);
    EXPECT_ANY_THROW(std::vector<char>(1'000'001));
    EXPECT_EQ(charge.refused_bytes(), 1'000'001U);
    for (int i = 0; i < 100; ++i) std::vector<char>(500'000);  // each is released before the next
    const std::vector<char> list(500'000);
    EXPECT_ANY_THROW(std::vector<char>(500'001));
    EXPECT_ANY_THROW(at::empty({500'001}, at::kByte));
    EXPECT_NO_THROW(at::empty({500'000}, at::kByte));
    EXPECT_EQ(account.held_bytes(), 0);
  }
  EXPECT_NO_THROW(std::vector<char>(2'000'000));
}
#endif

TEST_F(MemoryAccountTest, BlocksMayOutliveTheirAccount) {
  at::Tensor kept;
  {
    MemoryAccount account;
    const MemoryAccount::Charge charge(account);
    kept = at::full({1000}, 7.0F);
  }
  EXPECT_EQ(kept.sum().item<float>(), 7000);
}

TEST_F(MemoryAccountTest, BlocksAreAlignedAndSimpleAndCanGrow) {
  MemoryAccount account;
  const MemoryAccount::Charge charge(account);
  for (const std::int64_t size : {1, 3, 1000, 1 << 20}) {
    auto tensor = at::empty({size}, at::kByte);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64, 0U);
    EXPECT_EQ(tensor.storage().data_ptr().get_context(), tensor.data_ptr());
    tensor.resize_({2 * size});
    EXPECT_EQ(account.held_bytes(), 2 * size);
  }
  EXPECT_EQ(at::empty({0}).data_ptr(), nullptr);
  auto* const allocator = c10::GetCPUAllocator();
  void* const raw = allocator->raw_allocate(100);
  EXPECT_EQ(account.held_bytes(), 100);
  allocator->raw_deallocate(raw);
  EXPECT_EQ(account.held_bytes(), 0);
}

TEST_F(MemoryAccountTest, ThisMachineHasMemory) {
  EXPECT_GT(machine_memory_bytes(), 1 << 20);
  give_memory_back();
}

}  // namespace
}  // namespace slipway

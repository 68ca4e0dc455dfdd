#include "lib/torch_runtime/memory_account.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>
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

constexpr std::int64_t kOver = MemoryAccount::kTensorOverhead;

TEST_F(MemoryAccountTest, CountsWhatItsThreadAllocatesUntilItIsReleased) {
  MemoryAccount account;
  at::Tensor kept;
  {
    const MemoryAccount::Charge charge(account);
    kept = at::zeros({1000});
    EXPECT_EQ(account.held_bytes(), 4000 + kOver);
    const auto passing = at::zeros({1000});
    EXPECT_EQ(account.held_bytes(), 8000 + 2 * kOver);
  }
  EXPECT_EQ(account.held_bytes(), 4000 + kOver);
  const auto others = at::zeros({1000});  // nobody's
  EXPECT_EQ(account.held_bytes(), 4000 + kOver);
  std::thread([&] { kept.reset(); }).join();
  EXPECT_EQ(account.held_bytes(), 0);
}

TEST_F(MemoryAccountTest, RefusesWhatGoesBeyondTheLimitAndCountsItNot) {
  constexpr std::int64_t kRoom = 100'000;  // for what is no tensor
  MemoryAccount account(400'000 + kOver + kRoom);
  const MemoryAccount::Charge charge(account);
  const auto most = at::empty({100'000});
  EXPECT_EQ(charge.refused_bytes(), 0U);
  EXPECT_ANY_THROW(at::empty({kRoom / 4}));
  EXPECT_EQ(charge.refused_bytes(), 100'000U);
  EXPECT_ANY_THROW(at::empty({std::int64_t{1} << 60}));
  EXPECT_EQ(account.held_bytes(), 400'000 + kOver);
  account.set_limit(account.limit_bytes() + 10'000);
  EXPECT_NO_THROW(at::empty({kRoom / 4}));
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
  EXPECT_EQ(inner.held_bytes(), 4000 + kOver);
  EXPECT_EQ(outer.held_bytes(), 2000 + kOver);
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
    EXPECT_NO_THROW(at::empty({490'000}, at::kByte));
    EXPECT_EQ(account.held_bytes(), 0);
  }
  EXPECT_NO_THROW(std::vector<char>(2'000'000));
}

using Blocks = std::vector<std::unique_ptr<std::array<char, 40>>>;
void add(Blocks& blocks, int count) {
  for (int i = 0; i < count; ++i) blocks.push_back(std::make_unique<std::array<char, 40>>());
}

// None of them is refused, for torch makes such where nothing may be thrown; what comes after them is.
TEST_F(MemoryAccountTest, SmallBlocksCountWhileTheyAreNotReleased) {
  MemoryAccount account(1'000'000);
  const MemoryAccount::Charge charge(account);
  Blocks blocks;
  blocks.reserve(50'000);  // 400'000 bytes
  for (int i = 0; i < 100; ++i) {
    add(blocks, 1000);
    blocks.clear();
  }
  EXPECT_NO_THROW(MemoryAccount::check_limit());
  EXPECT_NO_THROW(at::empty({500'000}, at::kByte));
  EXPECT_NO_THROW(add(blocks, 20'000));
  EXPECT_EQ(charge.refused_bytes(), 0U);
  EXPECT_ANY_THROW(MemoryAccount::check_limit());
  EXPECT_GT(charge.refused_bytes(), 0U);
  EXPECT_ANY_THROW(at::empty({1}));
  EXPECT_ANY_THROW(std::vector<char>(4096));
  blocks.clear();
  EXPECT_NO_THROW(MemoryAccount::check_limit());
  EXPECT_NO_THROW(at::empty({1}));
}

TEST_F(MemoryAccountTest, WhatOneKeepsOfSmallBlocksStaysUntilItIsReleased) {
  MemoryAccount account(1'000'000);
  Blocks kept;
  std::int64_t before = 0;
  for (int i = 0; i < 5; ++i) {
    MemoryAccount::Charge charge(account);
    add(kept, 1000);
    {
      const MemoryAccount::Pause pause;
      Blocks().swap(kept);  // nobody's
    }
    add(kept, 1000);
    charge.keep_rest();
    EXPECT_GE(account.held_bytes(), before + 48'000);
    before = account.held_bytes();
  }
  {
    MemoryAccount::Charge charge(account);
    EXPECT_ANY_THROW(std::vector<char>(800'000));
    EXPECT_ANY_THROW(at::empty({800'000}, at::kByte));
    Blocks().swap(kept);
    {
      const MemoryAccount::Charge inner(account);
      EXPECT_ANY_THROW(std::vector<char>(1'000'000));
    }
    EXPECT_EQ(charge.refused_bytes(), 1'000'000U) << "what the inner one was refused";
    charge.keep_rest();
    EXPECT_LT(account.held_bytes(), before);
  }
  add(kept, 30'000);  // nobody's
  for (int i = 0; i < 3; ++i) {
    MemoryAccount::Charge charge(account);
    kept.resize(kept.size() - 10'000);
    charge.keep_rest();
    EXPECT_GE(account.held_bytes(), 0);
  }
  EXPECT_EQ(account.held_bytes(), 0);
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
    EXPECT_EQ(account.held_bytes(), 2 * size + kOver);
  }
  EXPECT_EQ(at::empty({0}).data_ptr(), nullptr);
  auto* const allocator = c10::GetCPUAllocator();
  void* const raw = allocator->raw_allocate(100);
  EXPECT_EQ(account.held_bytes(), 100 + kOver);
  allocator->raw_deallocate(raw);
  EXPECT_EQ(account.held_bytes(), 0);
}

}  // namespace
}  // namespace slipway

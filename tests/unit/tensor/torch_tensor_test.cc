#include "lib/tensor/torch_tensor.h"

#include <gtest/gtest.h>

#include <vector>

namespace slipway {
namespace {

TensorSpec spec(DType dtype, std::vector<std::int64_t> shape) {
  return {.name = "x", .dtype = dtype, .shape = std::move(shape)};
}

TEST(TorchTensor, EveryTypeGoesToTorchAndBack) {
  for (int i = 0; i <= static_cast<int>(DType::kB8); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_of(scalar_type(dtype)), dtype);
    const auto there = at::ones({2, 3}, at::TensorOptions(scalar_type(dtype)));
    const auto bytes = from_torch("x", there);
    ASSERT_TRUE(bytes);
    EXPECT_EQ(bytes->spec, spec(dtype, {2, 3}));
    EXPECT_EQ(bytes->frame.size(), 6 * item_size(dtype));
    EXPECT_TRUE(at::equal(*to_torch(bytes->spec, bytes->frame), there)) << dtype_name(dtype);
  }
}

TEST(TorchTensor, BytesThatDoNotMatchTheShapeAreRefused) {
  const auto frame = Frame::of(std::vector<float>(6));
  EXPECT_TRUE(to_torch(spec(DType::kF32, {2, 3}), frame));
  EXPECT_EQ(to_torch(spec(DType::kF32, {2, 4}), frame).error().code, Code::kInvalidArgument);
  EXPECT_EQ(to_torch(spec(DType::kF64, {2, 3}), frame).error().code, Code::kInvalidArgument);
  EXPECT_EQ(to_torch(spec(DType::kF32, {-1, 3}), frame).error().code, Code::kInvalidArgument);
}

TEST(TorchTensor, AShapeWhoseBytesOverflowIsRefused) {
  EXPECT_EQ(to_torch(spec(DType::kF32, {std::int64_t{1} << 62}), {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(to_torch(spec(DType::kF64, {std::int64_t{1} << 61, 1}), {}).error().code, Code::kInvalidArgument);
}

TEST(TorchTensor, LargeAlignedFramesAreSharedAndKeptAlive) {
  at::Tensor tensor;
  const void* memory = nullptr;
  {
    const auto frame = Frame::of(std::vector<float>(4096, 2.5F));
    memory = frame.data();
    tensor = *to_torch(spec(DType::kF32, {4096}), frame);
  }
  EXPECT_EQ(tensor.data_ptr(), memory);
  EXPECT_EQ(tensor.sum().item<float>(), 4096 * 2.5F);
}

TEST(TorchTensor, MisalignedFramesAreCopied) {
  std::vector<std::byte> bytes(16385);
  const float value = 3;
  for (int i = 0; i < 4096; ++i) std::memcpy(bytes.data() + 1 + 4 * i, &value, 4);
  const auto frame = Frame::of(std::move(bytes));
  const auto tensor = *to_torch(spec(DType::kF32, {4096}), frame.part(1, 16384));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 4, 0U);
  EXPECT_EQ(tensor.min().item<float>(), 3);
}

TEST(TorchTensor, AnyByteButZeroIsTrue) {
  const auto tensor = *to_torch(spec(DType::kB8, {3}), Frame::of(std::vector<std::uint8_t>{0, 1, 255}));
  EXPECT_TRUE(at::equal(tensor, at::tensor({0, 1, 1}).to(at::kBool)));
}

TEST(TorchTensor, ATransposedTensorComesOutInRowMajorOrder) {
  const auto tensor = at::arange(6, at::kFloat).view({2, 3}).t();
  const auto bytes = *from_torch("x", tensor);
  EXPECT_EQ(bytes.spec.shape, (std::vector<std::int64_t>{3, 2}));
  float second = 0;
  std::memcpy(&second, bytes.frame.data() + 4, 4);
  EXPECT_EQ(second, 3);
}

TEST(TorchTensor, TheFrameOutlivesTheTensor) {
  Frame frame;
  {
    frame = from_torch("x", at::full({5}, 7, at::kLong))->frame;
  }
  std::int64_t last = 0;
  std::memcpy(&last, frame.data() + 32, 8);
  EXPECT_EQ(last, 7);
}

TEST(TorchTensor, WhatCannotBeCarriedIsUnsupported) {
  EXPECT_EQ(from_torch("x", at::zeros({2}, at::kComplexFloat)).error().code, Code::kUnsupported);
  EXPECT_EQ(from_torch("x", at::eye(3).to_sparse()).error().code, Code::kUnsupported);
  EXPECT_EQ(from_torch("x", at::Tensor()).error().code, Code::kUnsupported);
}

TEST(TorchTensor, EmptyTensorsHaveEmptyFrames) {
  const auto bytes = *from_torch("x", at::zeros({0, 3}));
  EXPECT_EQ(bytes.frame.size(), 0U);
  EXPECT_EQ(to_torch(bytes.spec, bytes.frame)->sizes(), (std::vector<std::int64_t>{0, 3}));
}

TEST(TorchTensor, AnElementTypeOfALaterReleaseIsUnsupported) {
  const auto later = spec(static_cast<DType>(99), {2});
  EXPECT_EQ(byte_count(later).error().code, Code::kUnsupported);
  EXPECT_EQ(to_torch(later, Frame::of(std::vector<float>(2))).error().code, Code::kUnsupported);
  EXPECT_EQ(scalar_type(later.dtype), c10::ScalarType::Undefined);
}

}  // namespace
}  // namespace slipway

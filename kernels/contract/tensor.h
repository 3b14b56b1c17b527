// SPDX-License-Identifier: Apache-2.0
// Tensors as kernels see them: [batch][head][row][column], columns contiguous, other strides free.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace attnbench {

using Index = std::int64_t;

// kF64 exists for the oracle's output only; no kernel takes it as input.
enum class DType : std::uint8_t { kF32, kBF16, kF64 };

constexpr std::size_t SizeOf(DType dtype) {
  return dtype == DType::kBF16 ? 2 : dtype == DType::kF32 ? 4 : 8;
}

// The upper half of a float32. Conversion from float rounds to nearest even; NaN stays NaN.
struct BFloat16 {
  std::uint16_t bits = 0;

  static BFloat16 FromFloat(float value) {
    std::uint32_t u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
    u += 0x7fffu + ((u >> 16) & 1u);
    return {static_cast<std::uint16_t>(u >> 16)};
  }
  float ToFloat() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

inline float ToFloat(float value) { return value; }
inline float ToFloat(BFloat16 value) { return value.ToFloat(); }

// A strided view. Strides count elements, not bytes; a stride of 0 broadcasts.
struct ConstTensor {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Index batch_stride = 0, head_stride = 0, row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  const T* Row(Index batch, Index head, Index row) const {
    return static_cast<const T*>(data) + batch * batch_stride + head * head_stride +
           row * row_stride;
  }
  // One element as double, whatever the dtype: for the oracle and for checks, not for speed.
  double At(Index batch, Index head, Index row, Index column) const {
    switch (dtype) {
      case DType::kF32:
        return Row<float>(batch, head, row)[column];
      case DType::kBF16:
        return Row<BFloat16>(batch, head, row)[column].ToFloat();
      case DType::kF64:
        return Row<double>(batch, head, row)[column];
    }
    return 0;
  }
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Index batch_stride = 0, head_stride = 0, row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  operator ConstTensor() const { return {data, dtype, batch_stride, head_stride, row_stride}; }
  template <class T>
  T* Row(Index batch, Index head, Index row) const {
    return static_cast<T*>(data) + batch * batch_stride + head * head_stride + row * row_stride;
  }
  void Set(Index batch, Index head, Index row, Index column, double value) const {
    switch (dtype) {
      case DType::kF32:
        Row<float>(batch, head, row)[column] = static_cast<float>(value);
        break;
      case DType::kBF16:
        Row<BFloat16>(batch, head, row)[column] = BFloat16::FromFloat(static_cast<float>(value));
        break;
      case DType::kF64:
        Row<double>(batch, head, row)[column] = value;
        break;
    }
  }
};

}  // namespace attnbench

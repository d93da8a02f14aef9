// Linear layers: activations in every form, and which kernel does which kind.
//
// In: calls of linear.h. Out: its results.
#include "linear.h"

#include <cstring>

#include "parallel.h"

namespace kernels {

namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

int padded_of(int cols) { return (cols + kPad - 1) / kPad * kPad; }

template <typename T>
T* take(char*& memory, size_t count) {
  T* taken = reinterpret_cast<T*>(memory);
  memory += aligned(count * sizeof(T));
  return taken;
}

float weight_at(const Matrix& matrix, int64_t index) {
  if (matrix.kind == FP32) return static_cast<const float*>(matrix.weight)[index];
  return from_bf16(static_cast<const uint16_t*>(matrix.weight)[index]);
}

}  // namespace

size_t input_bytes(int n, int cols) {
  const size_t padded = padded_of(cols), all = n * padded, groups = n * (padded / kGroup);
  return aligned(all * 4) + aligned(all * 2) + 2 * aligned(all) + aligned(n * 4) +
         2 * aligned(groups * 4);
}

Input input_in(void* memory, int n, int cols) {
  char* next = static_cast<char*>(memory);
  const size_t padded = padded_of(cols), all = n * padded, groups = n * (padded / kGroup);
  Input input{n, cols, static_cast<int32_t>(padded), nullptr, nullptr, nullptr, nullptr,
              nullptr, nullptr, nullptr};
  input.fp32 = take<float>(next, all);
  input.bf16 = take<uint16_t>(next, all);
  input.u8 = take<uint8_t>(next, all);
  input.u8_scale = take<float>(next, n);
  input.s8 = take<int8_t>(next, all);
  input.s8_scale = take<float>(next, groups);
  input.s8_sum = take<int32_t>(next, groups);
  return input;
}

void prepare_slice(const Input& input, int kind, const float* x, int64_t stride_x, int thread,
                   int threads) {
  const Share rows = share_of(input.n, thread, threads);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* from = x + row * stride_x;
    for (int64_t col = 0; col < input.padded; ++col) {
      const float value = col < input.cols ? from[col] : 0.0f;
      if (kind == FP32) input.fp32[row * input.padded + col] = value;
      if (kind == BF16) input.bf16[row * input.padded + col] = to_bf16(value);
    }
  }
}

void linear_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                  int thread, int threads) {
  const int64_t blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;
  const Share share = share_of(blocks, thread, threads);
  for (int64_t row = share.begin * kRowBlock; row < share.end * kRowBlock; ++row) {
    if (row >= matrix.rows) return;
    for (int i = 0; i < n; ++i) {
      float sum = 0;
      for (int64_t col = 0; col < matrix.cols; ++col) {
        const int64_t at = i * static_cast<int64_t>(input.padded) + col;
        const float x = matrix.kind == FP32 ? input.fp32[at] : from_bf16(input.bf16[at]);
        sum += weight_at(matrix, row * matrix.cols + col) * x;
      }
      y[i * stride_y + row] = sum + (matrix.bias ? matrix.bias[row] : 0.0f);
    }
  }
}

}  // namespace kernels

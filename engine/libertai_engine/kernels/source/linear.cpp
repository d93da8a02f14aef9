// Where prepared activations lie, and which kernel does which kind of matrix.
//
// In: calls of linear.h. Out: its results.
#include "linear.h"

#include "slices.h"

namespace kernels {

namespace {

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// NOTE: an odd multiple: rows that lie a power of two apart would fall into one set of the cache.
int padded_of(int cols) { return ((cols + kPad - 1) / kPad | 1) * kPad; }

template <typename T>
T* take(char*& memory, size_t count) {
  T* taken = reinterpret_cast<T*>(memory);
  memory += aligned(count * sizeof(T));
  return taken;
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

void linear_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                  int thread, int threads) {
  Slice* const slices[] = {fp32_slice, bf16_slice, int8_slice, int4_slice};
  slices[matrix.kind](matrix, input, n, y, stride_y, thread, threads);
}

}  // namespace kernels

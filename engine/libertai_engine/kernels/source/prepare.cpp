// Activations in the forms that the kernels read.
//
// In: rows of fp32. Out: the arrays of an Input. A row, or a group of 32, that holds an infinity or
// something that is no number gets a scale that is no number, and so do the results it is part of.
// NOTE: the loops are written for the compiler to turn into vectors: no branches, no calls.
#include <cstring>
#include <limits>

#include "linear.h"
#include "parallel.h"

namespace kernels {

namespace {

constexpr uint32_t kInfinity = 0x7f800000;
constexpr float kTiny = 1e-30f;          // rows below it count as zero: 127 / x would overflow
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, half to even

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The largest magnitude, as bits: positive floats are ordered like their bits.
uint32_t largest(const float* from, int count) {
  uint32_t most = 0;
  for (int k = 0; k < count; ++k) {
    const uint32_t size = bits_of(from[k]) & 0x7fffffff;
    most = size > most ? size : most;
  }
  return most;
}

// What one unit of int8 stands for, and how many units make 1.
struct Scale {
  float unit, inverse;
};

Scale scale_of(uint32_t most) {
  if (most >= kInfinity) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  const float size = float_of(most);
  if (size < kTiny) return {0.0f, 0.0f};
  return {size / 127.0f, 127.0f / size};
}

int32_t rounded(float value) {
  return static_cast<int32_t>(bits_of(value + kRounder) - bits_of(kRounder));
}

void to_u8(const float* from, int cols, int padded, uint8_t* to, float* unit) {
  const Scale scale = scale_of(largest(from, cols));
  *unit = scale.unit;
  for (int k = 0; k < cols; ++k)
    to[k] = static_cast<uint8_t>(rounded(from[k] * scale.inverse) + 128);
  std::memset(to + cols, 128, padded - cols);
}

void to_s8(const float* from, int8_t* to, float* unit, int32_t* sum) {
  const Scale scale = scale_of(largest(from, kGroup));
  *unit = scale.unit;
  int32_t all = 0;
  for (int k = 0; k < kGroup; ++k) {
    const int8_t value = static_cast<int8_t>(rounded(from[k] * scale.inverse));
    to[k] = value;
    all += value;
  }
  *sum = -8 * all;
}

void groups_to_s8(const float* from, const Input& input, int64_t row) {
  const int groups = input.padded / kGroup;
  int8_t* to = input.s8 + row * input.padded;
  float* unit = input.s8_scale + row * groups;
  int32_t* sum = input.s8_sum + row * groups;
  for (int g = 0; g < groups; ++g) {
    const int here = input.cols - g * kGroup;
    float rest[kGroup] = {};
    const float* group = from + g * kGroup;
    if (here < kGroup) {
      if (here > 0) std::memcpy(rest, group, here * sizeof(float));
      group = rest;
    }
    to_s8(group, to + g * kGroup, unit + g, sum + g);
  }
}

void to_fp32s(const float* from, int cols, int padded, float* to) {
  std::memcpy(to, from, cols * sizeof(float));
  std::memset(to + cols, 0, (padded - cols) * sizeof(float));
}

}  // namespace

void to_bf16s(const float* from, int count, uint16_t* to) {
  for (int k = 0; k < count; ++k) {
    const uint32_t bits = bits_of(from[k]);
    const uint32_t even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const bool is_nan = (bits & 0x7fffffff) > kInfinity;
    to[k] = static_cast<uint16_t>(is_nan ? 0x7fc0 : even);
  }
}

void prepare_slice(const Input& input, int kind, const float* x, int64_t stride_x, int thread,
                   int threads) {
  const Share rows = share_of(input.n, thread, threads);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const float* from = x + row * stride_x;
    const int64_t at = row * input.padded;
    switch (kind) {
      case FP32: to_fp32s(from, input.cols, input.padded, input.fp32 + at); break;
      case BF16:
        to_bf16s(from, input.cols, input.bf16 + at);
        std::memset(input.bf16 + at + input.cols, 0, (input.padded - input.cols) * 2);
        break;
      case INT8: to_u8(from, input.cols, input.padded, input.u8 + at, input.u8_scale + row); break;
      case INT4: groups_to_s8(from, input, row); break;
    }
  }
}

}  // namespace kernels

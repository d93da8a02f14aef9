// Several floats at a time, in the compiler's own vectors: any instruction set, the same order.
//
// In: fp32 or bf16 in memory, of any alignment. Out: vectors, and sums in one fixed order.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear.h"

namespace kernels::decode {

// W lanes of fp32, and of integers of the same size.
template <int W>
struct Wide {
  typedef float Floats __attribute__((vector_size(4 * W)));
  typedef int32_t Ints __attribute__((vector_size(4 * W)));
  typedef uint32_t Bits __attribute__((vector_size(4 * W)));
};

constexpr int kLanes = 16;
using Floats = Wide<kLanes>::Floats;
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

template <int W = kLanes>
inline typename Wide<W>::Floats load(const float* from) {
  typename Wide<W>::Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline Floats load(const uint16_t* from) {
  Halves x;
  std::memcpy(&x, from, sizeof x);
  return reinterpret_cast<Floats>(__builtin_convertvector(x, Wide<kLanes>::Bits) << 16);
}

template <typename Vector>
inline void store(float* to, Vector x) {
  std::memcpy(to, &x, sizeof x);
}

inline float widen(float x) { return x; }
inline float widen(uint16_t x) { return from_bf16(x); }
inline void narrow(float x, float* y) { *y = x; }
inline void narrow(float x, uint16_t* y) { *y = to_bf16(x); }

// fp32 [n] from fp32 or bf16.
template <typename X>
inline void widen_row(const X* x, int n, float* y) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(x + i));
  for (; i < n; ++i) y[i] = widen(x[i]);
}

inline float sum_of(Floats x) {
  float parts[kLanes];
  store(parts, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

inline float dot(const float* x, const float* y, int n) {
  Floats sum{};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) sum += load(x + i) * load(y + i);
  float rest = 0;
  for (; i < n; ++i) rest += x[i] * y[i];
  return sum_of(sum) + rest;
}

// y += factor * x
inline void add_scaled(float factor, const float* x, float* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + factor * load(x + i));
  for (; i < n; ++i) y[i] += factor * x[i];
}

// e^x within 2 units in the last place: 2^n through the exponent's bits, the rest by the polynomial
// of Cephes' expf. 0 below -87; NaN stays NaN.
template <int W>
inline typename Wide<W>::Floats exp_of(typename Wide<W>::Floats x) {
  using Vector = typename Wide<W>::Floats;
  using Ints = typename Wide<W>::Ints;
  const Vector zero{}, low = zero - 87.0f, high = zero + 88.0f;
  Vector bounded = x > low ? x : low;  // NaN: low
  bounded = bounded < high ? bounded : high;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Vector shifted = bounded * 1.44269504088896341f + magic;
  const Vector n = shifted - magic;
  const Vector r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = (reinterpret_cast<Ints>(shifted) << 23) + (127 << 23);
  const Vector y = x < low ? zero : p * reinterpret_cast<Vector>(power);
  return x == x ? y : x;
}

inline float exp_of(float x) { return exp_of<4>(Wide<4>::Floats{} + x)[0]; }

}  // namespace kernels::decode

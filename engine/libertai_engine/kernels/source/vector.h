// Sixteen floats at a time, in the compiler's own vectors: any instruction set, the same results.
//
// In: fp32 or bf16 in memory, of any alignment. Out: vectors, and sums in one fixed order.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear.h"

namespace kernels {

constexpr int kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

inline Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline Floats load(const uint16_t* from) {
  Halves x;
  std::memcpy(&x, from, sizeof x);
  const Bits bits = __builtin_convertvector(x, Bits) << 16;
  return reinterpret_cast<Floats>(bits);
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline Floats all(float x) { return x - Floats{}; }

inline float widen(float x) { return x; }
inline float widen(uint16_t x) { return from_bf16(x); }
inline void narrow(float x, float* y) { *y = x; }
inline void narrow(float x, uint16_t* y) { *y = to_bf16(x); }

inline float sum_of(Floats x) {
  float parts[kLanes];
  store(parts, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

template <typename X, typename Y>
inline float dot(const X* x, const Y* y, int n) {
  Floats sum{};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) sum += load(x + i) * load(y + i);
  float rest = 0;
  for (; i < n; ++i) rest += widen(x[i]) * widen(y[i]);
  return sum_of(sum) + rest;
}

// y += factor * x
template <typename X>
inline void add_scaled(float factor, const X* x, float* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + factor * load(x + i));
  for (; i < n; ++i) y[i] += factor * widen(x[i]);
}

// e^x within 2 units in the last place: 2^n through the exponent's bits, the rest by the polynomial
// of Cephes' expf. 0 below -87; NaN stays NaN.
inline Floats exp_of(Floats x) {
  const Ints is_small = x < -87.0f, is_large = x > 88.0f, is_nan = x != x;
  const Floats low = all(-87.0f), high = all(88.0f);
  const Floats bounded = is_small | is_nan ? low : (is_large ? high : x);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats shifted = bounded * 1.44269504088896341f + magic;
  const Floats n = shifted - magic;
  const Floats r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = (reinterpret_cast<Ints>(shifted) << 23) + (127 << 23);
  const Floats y = p * reinterpret_cast<Floats>(power);
  return is_nan ? x : (is_small ? Floats{} : y);
}

inline float exp_of(float x) { return exp_of(all(x))[0]; }

}  // namespace kernels

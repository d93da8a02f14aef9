// The instructions this library is compiled for, and vectors made of them.
//
// In: what the compiler says of the machine. Out: one macro for the level, and `Lanes`, a vector of
// fp32 with the same operations on every level, as wide as a register.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "linear.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define KERNELS_AVX512 1
#if defined(__AVX512VNNI__)
#define KERNELS_VNNI 1
#endif
#if defined(__AVX512BF16__)
#define KERNELS_BF16 1
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define KERNELS_AVX2 1
#endif

#if defined(KERNELS_AVX512) || defined(KERNELS_AVX2)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace kernels {

template <typename Body, int... I>
INLINE void each_of(Body& body, std::integer_sequence<int, I...>) {
  (body(std::integral_constant<int, I>{}), ...);
}

// body(0), body(1), ... body(N - 1), with indices that are constants. NOTE: an array of registers
// must be indexed by constants from the first pass of the compiler on, else it lies in memory; a
// loop is unrolled too late for that.
template <int N, typename Body>
INLINE void each(Body body) {
  each_of(body, std::make_integer_sequence<int, N>{});
}

#define BODY(index) [&](auto index) __attribute__((always_inline))

// Fetch a line into the second-level cache: it is used some thousand cycles from now.
INLINE void prefetch(const void* place) { __builtin_prefetch(place, 0, 2); }

#if defined(KERNELS_AVX512)

struct Lanes {
  static constexpr int kLanes = 16;
  __m512 v;
  static INLINE Lanes zero() { return {_mm512_setzero_ps()}; }
  static INLINE Lanes all(float value) { return {_mm512_set1_ps(value)}; }
  static INLINE Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static INLINE Lanes load(const uint16_t* from) {  // bf16
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  static INLINE Lanes load_half(const uint16_t* from) {  // fp16
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
  INLINE void store(float* to) const { _mm512_storeu_ps(to, v); }
  INLINE Lanes plus_product(Lanes a, Lanes b) const { return {_mm512_fmadd_ps(a.v, b.v, v)}; }
  INLINE Lanes times(Lanes other) const { return {_mm512_mul_ps(v, other.v)}; }
  INLINE Lanes plus(Lanes other) const { return {_mm512_add_ps(v, other.v)}; }
  // The sums of eight vectors, each in the same order.
  static INLINE void sums(const Lanes* eight, float* to) {
    __m256 halves[8];
    each<8>(BODY(r) {
      const __m512 all = eight[r].v;
      halves[r] = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    });
    const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(halves[0], halves[1]),
                                    _mm256_hadd_ps(halves[2], halves[3]));
    const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(halves[4], halves[5]),
                                    _mm256_hadd_ps(halves[6], halves[7]));
    const __m256 low = _mm256_permute2f128_ps(a, b, 0x20);
    const __m256 high = _mm256_permute2f128_ps(a, b, 0x31);
    _mm256_storeu_ps(to, _mm256_add_ps(low, high));
  }
};

#elif defined(KERNELS_AVX2)

struct Lanes {
  static constexpr int kLanes = 8;
  __m256 v;
  static INLINE Lanes zero() { return {_mm256_setzero_ps()}; }
  static INLINE Lanes all(float value) { return {_mm256_set1_ps(value)}; }
  static INLINE Lanes load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static INLINE Lanes load(const uint16_t* from) {  // bf16
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  static INLINE Lanes load_half(const uint16_t* from) {  // fp16
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
  }
  INLINE void store(float* to) const { _mm256_storeu_ps(to, v); }
  INLINE Lanes plus_product(Lanes a, Lanes b) const { return {_mm256_fmadd_ps(a.v, b.v, v)}; }
  INLINE Lanes times(Lanes other) const { return {_mm256_mul_ps(v, other.v)}; }
  INLINE Lanes plus(Lanes other) const { return {_mm256_add_ps(v, other.v)}; }
  static INLINE void sums(const Lanes* eight, float* to) {
    for (int k = 0; k < 8; ++k) {
      const __m256 all = eight[k].v;
      const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
      const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
      to[k] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
  }
};

#else

// fp16 to fp32: the exponent is put right by a multiplication, which also does subnormal numbers.
INLINE float from_half(uint16_t half) {
  const uint32_t bits = (static_cast<uint32_t>(half) & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  value *= 5.192296858534828e33f;  // 2^112
  return half & 0x8000 ? -value : value;
}

struct Lanes {
  static constexpr int kLanes = 4;
  float v[kLanes];
  static INLINE Lanes zero() { return {{0, 0, 0, 0}}; }
  static INLINE Lanes all(float value) { return {{value, value, value, value}}; }
  static INLINE Lanes load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static INLINE Lanes load(const uint16_t* from) {  // bf16
    return {{from_bf16(from[0]), from_bf16(from[1]), from_bf16(from[2]), from_bf16(from[3])}};
  }
  static INLINE Lanes load_half(const uint16_t* from) {  // fp16
    return {{from_half(from[0]), from_half(from[1]), from_half(from[2]), from_half(from[3])}};
  }
  INLINE void store(float* to) const { std::memcpy(to, v, sizeof v); }
  INLINE Lanes plus_product(Lanes a, Lanes b) const {
    Lanes out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = v[i] + a.v[i] * b.v[i];
    return out;
  }
  INLINE Lanes times(Lanes other) const {
    Lanes out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = v[i] * other.v[i];
    return out;
  }
  INLINE Lanes plus(Lanes other) const {
    Lanes out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = v[i] + other.v[i];
    return out;
  }
  static INLINE void sums(const Lanes* eight, float* to) {
    for (int k = 0; k < 8; ++k)
      to[k] = (eight[k].v[0] + eight[k].v[1]) + (eight[k].v[2] + eight[k].v[3]);
  }
};

#endif

// Keeps a value in its register: else the compiler would load it again wherever it is used, and the
// loads would take longer than the products.
#if defined(KERNELS_AVX512)
INLINE void hold(__m512i& value) { asm("" : "+v"(value)); }
INLINE void hold(Lanes& value) { asm("" : "+v"(value.v)); }
#if defined(KERNELS_BF16)
INLINE void hold(__m512bh& value) { asm("" : "+v"(value)); }
#endif
#elif defined(KERNELS_AVX2)
INLINE void hold(__m256i& value) { asm("" : "+x"(value)); }
INLINE void hold(Lanes& value) { asm("" : "+x"(value.v)); }
#else
template <typename T>
INLINE void hold(T&) {}
#endif

}  // namespace kernels

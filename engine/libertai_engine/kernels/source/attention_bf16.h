// Scores and weighted values of bf16 lanes with instructions that multiply pairs of bf16.
//
// In and out: as `score` and `mix` of attention.h, but queries are pairs [head_dim / 2, W], and
// weights are rounded to bf16 as they meet the values. Only where the processor has them.
#pragma once

#include <algorithm>

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "vector.h"

namespace kernels::decode {

constexpr int kTogether = 8;  // keys multiplied at the same time
constexpr int kBlock = 32;    // values widened at the same time
constexpr int kMaxHeadDim = 512;

#if defined(__AVX512BF16__) && defined(__AVX512VL__) && defined(__AVX512BW__)

constexpr bool kHasPairs = true;

inline Wide<8>::Floats add_pairs(Wide<8>::Floats sum, const uint32_t* x, uint32_t y) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  const __m256i same = _mm256_set1_epi32(static_cast<int>(y));
  return reinterpret_cast<Wide<8>::Floats>(
      _mm256_dpbf16_ps(reinterpret_cast<__m256>(sum), (__m256bh)pairs, (__m256bh)same));
}

inline Wide<16>::Floats add_pairs(Wide<16>::Floats sum, const uint32_t* x, uint32_t y) {
  const __m512i pairs = _mm512_loadu_si512(x), same = _mm512_set1_epi32(static_cast<int>(y));
  return reinterpret_cast<Wide<16>::Floats>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), (__m512bh)pairs, (__m512bh)same));
}

template <int W>
inline void score_pairs(const float* query, const uint16_t* keys, int count, int head_dim,
                        float* scores) {
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(query);
  for (int j = 0; j < count; j += kTogether) {
    const int n = std::min(kTogether, count - j);
    const uint16_t* row[kTogether];
    for (int r = 0; r < kTogether; ++r) row[r] = keys + int64_t{j + (r < n ? r : 0)} * head_dim;
    typename Wide<W>::Floats sums[kTogether] = {};
    for (int i = 0; i < head_dim / 2; ++i) {
      for (int r = 0; r < kTogether; ++r) {
        uint32_t pair;
        std::memcpy(&pair, row[r] + 2 * i, sizeof pair);
        sums[r] = add_pairs(sums[r], pairs + i * W, pair);
      }
    }
    for (int r = 0; r < n; ++r) store(scores + (j + r) * W, sums[r]);
  }
}

// Weights [count, W] of fp32 become pairs of bf16 of two positions, [(count + 1) / 2, W], in place.
template <int W>
inline void pair_weights(float* weights, int count) {
  using Bits = typename Wide<W>::Bits;
  for (int j = 0; j < count; j += 2) {
    Bits first = reinterpret_cast<Bits>(load<W>(weights + j * W)), second{};
    if (j + 1 < count) second = reinterpret_cast<Bits>(load<W>(weights + (j + 1) * W));
    first = first + 0x7fff + ((first >> 16) & 1);
    second = second + 0x7fff + ((second >> 16) & 1);
    const Bits pairs = (first >> 16) | (second & 0xffff0000u);
    std::memcpy(weights + j / 2 * W, &pairs, sizeof pairs);
  }
}

// G heads times V vectors of 32 values each; out [G, stride].
template <int W, int G, int V>
inline void mix_pairs_tile(const uint32_t* weights, const uint16_t* values, int count, int head_dim,
                           float* out, int64_t stride) {
  __m512 low[G][V], high[G][V];
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < V; ++v) low[g][v] = high[g][v] = _mm512_setzero_ps();
  }
  for (int j = 0; j < count; j += 2) {
    const uint16_t* row = values + int64_t{j} * head_dim;
    for (int v = 0; v < V; ++v) {
      const __m512i first = _mm512_loadu_si512(row + 32 * v);
      // NOTE: behind the last position may lie anything, NaN included, or no memory at all.
      const __m512i second = j + 1 < count ? _mm512_loadu_si512(row + head_dim + 32 * v)
                                           : _mm512_setzero_si512();
      const __m512bh both_low = (__m512bh)_mm512_unpacklo_epi16(first, second);
      const __m512bh both_high = (__m512bh)_mm512_unpackhi_epi16(first, second);
      for (int g = 0; g < G; ++g) {
        const __m512bh pair =
            (__m512bh)_mm512_set1_epi32(static_cast<int>(weights[j / 2 * W + g]));
        low[g][v] = _mm512_dpbf16_ps(low[g][v], both_low, pair);
        high[g][v] = _mm512_dpbf16_ps(high[g][v], both_high, pair);
      }
    }
  }
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < V; ++v) {  // unpacking has put values 0-3, 8-11, … low, the others high
      float parts[2][16];
      store(parts[0], low[g][v]);
      store(parts[1], high[g][v]);
      for (int i = 0; i < 32; ++i) {
        out[g * stride + 32 * v + i] = parts[i / 4 % 2][i / 8 * 4 + i % 4];
      }
    }
  }
}

template <int W>
inline void mix_pairs(float* weights, int group, const uint16_t* values, int count, int head_dim,
                      float* out, int64_t stride) {
  pair_weights<W>(weights, count);
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(weights);
  for (int g = 0; g < group;) {
    const int heads = group - g >= 4 ? 4 : group - g >= 2 ? 2 : 1;
    for (int i = 0; i < head_dim;) {
      const int vectors = head_dim - i >= 64 ? 2 : 1;
      const auto tile =
          heads == 4   ? (vectors == 2 ? mix_pairs_tile<W, 4, 2> : mix_pairs_tile<W, 4, 1>)
          : heads == 2 ? (vectors == 2 ? mix_pairs_tile<W, 2, 2> : mix_pairs_tile<W, 2, 1>)
                       : (vectors == 2 ? mix_pairs_tile<W, 1, 2> : mix_pairs_tile<W, 1, 1>);
      tile(pairs + g, values + i, count, head_dim, out + g * stride + i, stride);
      i += vectors * 32;
    }
    g += heads;
  }
}

template <int W>
inline void score_pairs(const float*, const float*, int, int, float*) {}
template <int W>
inline void mix_pairs(float*, int, const float*, int, int, float*, int64_t) {}

#else

constexpr bool kHasPairs = false;

template <int W, typename Lane>
inline void score_pairs(const float*, const Lane*, int, int, float*) {}
template <int W, typename Lane>
inline void mix_pairs(float*, int, const Lane*, int, int, float*, int64_t) {}

#endif

}  // namespace kernels::decode

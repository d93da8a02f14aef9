// int8 weights, one scale a row.
//
// In: matrices of this kind, activations as 128 + int8 with one scale a row. Out: y in fp32.
// Products are summed in int32, exactly: every level of instructions gives the same bits.
#include "dots.h"
#include "panel.h"
#include "slices.h"

namespace kernels {

namespace {

struct Int8Kind {
  using Weight = int8_t;
  using Activation = uint8_t;
  using Number = int32_t;
  static INLINE const uint8_t* activations(const Input& input) { return input.u8; }

  // sum = w . (x + 128), so 128 times the row's sum is too much.
  template <int N>
  static INLINE void scaled(const Matrix& m, const Input& input, int64_t row, int i0,
                            const int32_t* sums, float* y) {
    const int32_t surplus = 128 * static_cast<const int32_t*>(m.extra)[row];
    const float scale = static_cast<const float*>(m.scale)[row];
    for (int i = 0; i < N; ++i)
      y[i] = static_cast<float>(sums[i] - surplus) * (scale * input.u8_scale[i0 + i]);
  }
};

#if defined(KERNELS_AVX512)

INLINE void sums_of_eight(const __m512i* eight, int32_t* to) {
  __m256i halves[8];
  each<8>(BODY(r) {
    const __m512i all = eight[r];
    halves[r] = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti32x8_epi32(all, 1));
  });
  const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(halves[0], halves[1]),
                                      _mm256_hadd_epi32(halves[2], halves[3]));
  const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(halves[4], halves[5]),
                                      _mm256_hadd_epi32(halves[6], halves[7]));
  const __m256i low = _mm256_permute2x128_si256(a, b, 0x20);
  const __m256i high = _mm256_permute2x128_si256(a, b, 0x31);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi32(low, high));
}

#endif

#if defined(KERNELS_VNNI)

struct Int8 : Int8Kind {
  using Sum = __m512i;
  using Loaded = __m512i;
  static constexpr int kStep = 64;
  static INLINE Sum zero() { return _mm512_setzero_si512(); }
  static INLINE Loaded load(const int8_t* from) { return _mm512_loadu_si512(from); }
  static INLINE Loaded load_x(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static INLINE Sum add(Sum sum, Loaded w, Loaded x) { return _mm512_dpbusd_epi32(sum, x, w); }
  static INLINE void totals(const Sum* eight, int32_t* to) { sums_of_eight(eight, to); }
};

#elif defined(KERNELS_AVX512)

struct Int8 : Int8Kind {
  using Sum = __m512i;
  using Loaded = __m512i;
  static constexpr int kStep = 32;
  static INLINE __m256i bytes(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static INLINE Sum zero() { return _mm512_setzero_si512(); }
  static INLINE Loaded load(const int8_t* from) { return _mm512_cvtepi8_epi16(bytes(from)); }
  static INLINE Loaded load_x(const uint8_t* from) { return _mm512_cvtepu8_epi16(bytes(from)); }
  static INLINE Sum add(Sum sum, Loaded w, Loaded x) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
  }
  static INLINE void totals(const Sum* eight, int32_t* to) { sums_of_eight(eight, to); }
};

#elif defined(KERNELS_AVX2)

struct Int8 : Int8Kind {
  using Sum = __m256i;
  using Loaded = __m256i;
  static constexpr int kStep = 16;
  static INLINE __m128i bytes(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
  }
  static INLINE Sum zero() { return _mm256_setzero_si256(); }
  static INLINE Loaded load(const int8_t* from) { return _mm256_cvtepi8_epi16(bytes(from)); }
  static INLINE Loaded load_x(const uint8_t* from) { return _mm256_cvtepu8_epi16(bytes(from)); }
  static INLINE Sum add(Sum sum, Loaded w, Loaded x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
  }
  static INLINE void totals(const Sum* eight, int32_t* to) {
    for (int k = 0; k < kEight; ++k) {
      alignas(32) int32_t lanes[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), eight[k]);
      to[k] = 0;
      for (int32_t lane : lanes) to[k] += lane;
    }
  }
};

#else

struct Int8 : Int8Kind {
  using Sum = int32_t;
  static constexpr int kStep = 16;
  struct Loaded {
    int16_t v[kStep];
  };
  static INLINE Sum zero() { return 0; }
  template <typename T>
  static INLINE Loaded widened(const T* from) {
    Loaded out;
    for (int k = 0; k < kStep; ++k) out.v[k] = from[k];
    return out;
  }
  static INLINE Loaded load(const int8_t* from) { return widened(from); }
  static INLINE Loaded load_x(const uint8_t* from) { return widened(from); }
  static INLINE Sum add(Sum sum, const Loaded& w, const Loaded& x) {
    for (int k = 0; k < kStep; ++k) sum += w.v[k] * x.v[k];
    return sum;
  }
  static INLINE void totals(const Sum* eight, int32_t* to) {
    std::memcpy(to, eight, kEight * sizeof(Sum));
  }
};

#endif

}  // namespace

void int8_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                int thread, int threads) {
#if defined(KERNELS_VNNI)
  if (n >= kMany && panels_slice(matrix, input, n, y, stride_y, thread, threads)) return;
#endif
  dots_slice<Int8>(matrix, input, n, y, stride_y, thread, threads);
}

}  // namespace kernels

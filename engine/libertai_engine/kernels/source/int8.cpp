// int8 weights, one scale a row.
//
// In: matrices of this kind, activations as 128 + int8 with one scale a row. Out: y in fp32.
// Products are summed in int32, exactly: every level of instructions gives the same bits.
#include "dots.h"
#include "slices.h"

namespace kernels {

namespace {

struct Int8Kind {
  using Weight = int8_t;
  using Activation = uint8_t;
  static INLINE const uint8_t* activations(const Input& input) { return input.u8; }

  // sum = w . (x + 128), so 128 times the row's sum is too much.
  static INLINE float scaled(const Matrix& m, const Input& input, int64_t row, int i, int32_t sum) {
    const int32_t exact = sum - 128 * static_cast<const int32_t*>(m.extra)[row];
    const float scale = static_cast<const float*>(m.scale)[row] * input.u8_scale[i];
    const float y = static_cast<float>(exact) * scale;
    return m.bias ? y + m.bias[row] : y;
  }
};

#if defined(KERNELS_VNNI)

struct Int8 : Int8Kind {
  using Sum = __m512i;
  using Loaded = __m512i;
  static constexpr int kStep = 64;
  static INLINE Sum zero() { return _mm512_setzero_si512(); }
  static INLINE Loaded load(const int8_t* from) { return _mm512_loadu_si512(from); }
  static INLINE Loaded load_x(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static INLINE Sum add(Sum sum, Loaded w, Loaded x) { return _mm512_dpbusd_epi32(sum, x, w); }
  static INLINE float result(const Matrix& m, const Input& input, int64_t row, int i, Sum sum) {
    return scaled(m, input, row, i, _mm512_reduce_add_epi32(sum));
  }
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
  static INLINE float result(const Matrix& m, const Input& input, int64_t row, int i, Sum sum) {
    return scaled(m, input, row, i, _mm512_reduce_add_epi32(sum));
  }
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
  static INLINE float result(const Matrix& m, const Input& input, int64_t row, int i, Sum sum) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    int32_t all = 0;
    for (int32_t lane : lanes) all += lane;
    return scaled(m, input, row, i, all);
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
  static INLINE float result(const Matrix& m, const Input& input, int64_t row, int i, Sum sum) {
    return scaled(m, input, row, i, sum);
  }
};

#endif

}  // namespace

void int8_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                int thread, int threads) {
  dots_slice<Int8>(matrix, input, n, y, stride_y, thread, threads);
}

}  // namespace kernels

// fp32 and bf16 weights.
//
// In: matrices of these kinds, activations in the same type. Out: sums of products in fp32.
#include "dots.h"
#include "slices.h"

namespace kernels {

namespace {

float with_bias(const Matrix& matrix, int64_t row, float sum) {
  return matrix.bias ? sum + matrix.bias[row] : sum;
}

struct Fp32 {
  using Weight = float;
  using Activation = float;
  using Sum = Lanes;
  using Loaded = Lanes;
  static constexpr int kStep = Lanes::kLanes;
  static INLINE const float* activations(const Input& input) { return input.fp32; }
  static INLINE Lanes zero() { return Lanes::zero(); }
  static INLINE Lanes load(const float* from) { return Lanes::load(from); }
  static INLINE Lanes load_x(const float* from) { return Lanes::load(from); }
  static INLINE Lanes add(Lanes sum, Lanes w, Lanes x) { return sum.plus_product(w, x); }
  static INLINE float result(const Matrix& m, const Input&, int64_t row, int, Lanes sum) {
    return with_bias(m, row, sum.sum());
  }
};

#if defined(KERNELS_BF16)

struct Bf16 {
  using Weight = uint16_t;
  using Activation = uint16_t;
  using Sum = __m512;
  using Loaded = __m512bh;
  static constexpr int kStep = 32;
  static INLINE const uint16_t* activations(const Input& input) { return input.bf16; }
  static INLINE __m512 zero() { return _mm512_setzero_ps(); }
  static INLINE __m512bh load(const uint16_t* from) {
    return (__m512bh)_mm512_loadu_si512(from);
  }
  static INLINE __m512bh load_x(const uint16_t* from) { return load(from); }
  static INLINE __m512 add(__m512 sum, __m512bh w, __m512bh x) {
    return _mm512_dpbf16_ps(sum, w, x);
  }
  static INLINE float result(const Matrix& m, const Input&, int64_t row, int, __m512 sum) {
    return with_bias(m, row, _mm512_reduce_add_ps(sum));
  }
};

#else

// Without instructions for bf16 its values are widened and multiplied in fp32.
struct Bf16 {
  using Weight = uint16_t;
  using Activation = uint16_t;
  using Sum = Lanes;
  using Loaded = Lanes;
  static constexpr int kStep = Lanes::kLanes;
  static INLINE const uint16_t* activations(const Input& input) { return input.bf16; }
  static INLINE Lanes zero() { return Lanes::zero(); }
  static INLINE Lanes load(const uint16_t* from) { return Lanes::load(from); }
  static INLINE Lanes load_x(const uint16_t* from) { return Lanes::load(from); }
  static INLINE Lanes add(Lanes sum, Lanes w, Lanes x) { return sum.plus_product(w, x); }
  static INLINE float result(const Matrix& m, const Input&, int64_t row, int, Lanes sum) {
    return with_bias(m, row, sum.sum());
  }
};

#endif

}  // namespace

void fp32_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                int thread, int threads) {
  dots_slice<Fp32>(matrix, input, n, y, stride_y, thread, threads);
}

void bf16_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                int thread, int threads) {
  dots_slice<Bf16>(matrix, input, n, y, stride_y, thread, threads);
}

}  // namespace kernels

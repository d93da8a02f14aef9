// fp32 and bf16 weights.
//
// In: matrices of these kinds, activations in the same type. Out: sums of products in fp32.
#include "dots.h"
#include "slices.h"

namespace kernels {

namespace {

struct Dense {
  using Sum = Lanes;
  using Number = float;
  static INLINE Lanes zero() { return Lanes::zero(); }
  static INLINE void totals(const Lanes* eight, float* to) { Lanes::sums(eight, to); }
  template <int N>
  static INLINE void scaled(const Matrix&, const Input&, int64_t, int, const float* sums,
                            float* y) {
    std::memcpy(y, sums, N * sizeof(float));
  }
};

// Numbers that are widened to fp32, if need be, and multiplied there.
template <typename Element>
struct Widened : Dense {
  using Weight = Element;
  using Activation = Element;
  using Loaded = Lanes;
  static constexpr int kStep = Lanes::kLanes;
  static INLINE Lanes load(const Element* from) { return Lanes::load(from); }
  static INLINE Lanes load_x(const Element* from) { return Lanes::load(from); }
  static INLINE Lanes add(Lanes sum, Lanes w, Lanes x) { return sum.plus_product(w, x); }
};

struct Fp32 : Widened<float> {
  static INLINE const float* activations(const Input& input) { return input.fp32; }
};

#if defined(KERNELS_BF16)

struct Bf16 : Dense {
  using Weight = uint16_t;
  using Activation = uint16_t;
  using Loaded = __m512bh;
  static constexpr int kStep = 32;
  static INLINE const uint16_t* activations(const Input& input) { return input.bf16; }
  static INLINE __m512bh load(const uint16_t* from) {
    return (__m512bh)_mm512_loadu_si512(from);
  }
  static INLINE __m512bh load_x(const uint16_t* from) { return load(from); }
  static INLINE Lanes add(Lanes sum, __m512bh w, __m512bh x) {
    return {_mm512_dpbf16_ps(sum.v, w, x)};
  }
};

#else

// Without instructions for bf16.
struct Bf16 : Widened<uint16_t> {
  static INLINE const uint16_t* activations(const Input& input) { return input.bf16; }
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

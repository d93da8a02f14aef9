// int4 weights, one scale for each row and 32 columns.
//
// In: matrices of this kind, activations as int8 with one scale for each 32 columns. Out: y, fp32.
// A block is 16 rows and 32 columns in 256 bytes: byte 64 j + 4 r + q holds, of row r, column
// 8 j + q in its low and 8 j + 4 + q in its high four bits, both plus 8. So a load gives four
// columns of every row, a sum keeps one lane for each row, and no sum is taken across lanes.
#include "parallel.h"
#include "simd.h"
#include "slices.h"

namespace kernels {

namespace {

constexpr int kBlockBytes = kRowBlock * kGroup / 2;
constexpr int kQuads = kGroup / 4;         // loads' worth of columns in a group
constexpr int64_t kAhead = 64 * kBlockBytes;  // bytes that are fetched before they are needed

// `Rows` is a vector with one lane for each of kLanes rows. It unpacks a group's weights once
// (Weights), and adds up their products with one activation row (dot), exactly.

#if defined(KERNELS_AVX512)

struct Rows {
  static constexpr int kLanes = 16;
  static constexpr int kTile = 12;  // activation rows whose sums fit into registers
  struct Weights {
    __m512i quad[kQuads];
  };
  static INLINE Weights unpack(const uint8_t* block) {
    Weights out;
    const __m512i low = _mm512_set1_epi8(15);
    each<kQuads / 2>(BODY(j) {
      const __m512i both = _mm512_loadu_si512(block + 64 * j);
      out.quad[2 * j] = _mm512_and_si512(both, low);
      out.quad[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    });
    return out;
  }
#if defined(KERNELS_VNNI)
  // The products of two blocks, for which activations are loaded once.
  static INLINE void dots(const Weights* w, const int8_t* x, int32_t start, Lanes* out) {
    __m512i sums[2] = {_mm512_set1_epi32(start), _mm512_set1_epi32(start)};
    each<kQuads>(BODY(q) {
      __m512i four = quad(x, q);
      hold(four);
      each<2>(BODY(b) { sums[b] = _mm512_dpbusd_epi32(sums[b], w[b].quad[q], four); });
    });
    each<2>(BODY(b) { out[b] = {_mm512_cvtepi32_ps(sums[b])}; });
  }
#endif
  static INLINE Lanes dot(const Weights& w, const int8_t* x, int32_t start) {
#if defined(KERNELS_VNNI)
    __m512i sum = _mm512_set1_epi32(start);
    each<kQuads>(BODY(q) { sum = _mm512_dpbusd_epi32(sum, w.quad[q], quad(x, q)); });
#else
    // 15 * 127 * 2 in each of 8 terms: below 2^15.
    __m512i pairs = _mm512_maddubs_epi16(w.quad[0], quad(x, 0));
    each<kQuads - 1>(BODY(q) {
      pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(w.quad[q + 1], quad(x, q + 1)));
    });
    const __m512i ones = _mm512_set1_epi16(1);
    const __m512i sum = _mm512_add_epi32(_mm512_set1_epi32(start), _mm512_madd_epi16(pairs, ones));
#endif
    return {_mm512_cvtepi32_ps(sum)};
  }
  static INLINE __m512i quad(const int8_t* x, int q) {
    int32_t four;
    std::memcpy(&four, x + 4 * q, 4);
    return _mm512_set1_epi32(four);
  }
};

#elif defined(KERNELS_AVX2)

struct Rows {
  static constexpr int kLanes = 8;
  static constexpr int kTile = 4;
  struct Weights {
    __m256i quad[kQuads];
  };
  static INLINE Weights unpack(const uint8_t* block) {
    Weights out;
    const __m256i low = _mm256_set1_epi8(15);
    each<kQuads / 2>(BODY(j) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 64 * j));
      out.quad[2 * j] = _mm256_and_si256(both, low);
      out.quad[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    });
    return out;
  }
  static INLINE Lanes dot(const Weights& w, const int8_t* x, int32_t start) {
    // 15 * 127 * 2 in each of 8 terms: below 2^15.
    __m256i pairs = _mm256_maddubs_epi16(w.quad[0], quad(x, 0));
    each<kQuads - 1>(BODY(q) {
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w.quad[q + 1], quad(x, q + 1)));
    });
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    return {_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(start), sums))};
  }
  static INLINE __m256i quad(const int8_t* x, int q) {
    int32_t four;
    std::memcpy(&four, x + 4 * q, 4);
    return _mm256_set1_epi32(four);
  }
};

#else

struct Rows {
  static constexpr int kLanes = 4;
  static constexpr int kTile = 1;
  struct Weights {
    int16_t column[kGroup][kLanes];
  };
  static INLINE Weights unpack(const uint8_t* block) {
    Weights out;
    for (int column = 0; column < kGroup; ++column)
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint8_t both = block[column / 8 * 64 + lane * 4 + column % 4];
        out.column[column][lane] = column % 8 < 4 ? both & 15 : both >> 4;
      }
    return out;
  }
  static INLINE Lanes dot(const Weights& w, const int8_t* x, int32_t start) {
    int32_t sums[kLanes] = {start, start, start, start};
    for (int column = 0; column < kGroup; ++column)
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += w.column[column][lane] * x[column];
    Lanes out;
    for (int lane = 0; lane < kLanes; ++lane) out.v[lane] = static_cast<float>(sums[lane]);
    return out;
  }
};

#endif

// kLanes rows from `row` on, times N activation rows from i0 on.
template <int N>
void tile(const Matrix& m, const Input& input, int64_t row, int i0, bool is_first, float* y,
          int64_t stride_y) {
  const int64_t groups = (m.cols + kGroup - 1) / kGroup, block = row / kRowBlock;
  const int64_t lane = row % kRowBlock, padded_groups = input.padded / kGroup;
  const uint8_t* w =
      static_cast<const uint8_t*>(m.weight) + block * groups * kBlockBytes + lane * 4;
  const uint16_t* scales =
      static_cast<const uint16_t*>(m.scale) + block * groups * kRowBlock + lane;
  const int8_t* x = input.s8 + i0 * int64_t{input.padded};
  const float* x_scale = input.s8_scale + i0 * padded_groups;
  const int32_t* start = input.s8_sum + i0 * padded_groups;
  Lanes sums[N];
  each<N>(BODY(i) { sums[i] = Lanes::zero(); });
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* here = w + g * kBlockBytes;
    if (is_first) {
      for (int line = 0; line < kBlockBytes; line += 64) prefetch(here + kAhead + line);
      prefetch(scales + (g + kAhead / kBlockBytes) * kRowBlock);
    }
    const auto weights = Rows::unpack(here);
    const Lanes scale = Lanes::load_half(scales + g * kRowBlock);
    each<N>(BODY(i) {
      const int64_t at = i * padded_groups + g;
      const Lanes exact = Rows::dot(weights, x + at * kGroup, start[at]);
      sums[i] = sums[i].plus_product(exact, scale.times(Lanes::all(x_scale[at])));
    });
  }
  const bool is_whole = row + Rows::kLanes <= m.rows;
  each<N>(BODY(i) {
    float* to = y + (i0 + i) * stride_y + row;
    if (is_whole) return (m.bias ? sums[i].plus(Lanes::load(m.bias + row)) : sums[i]).store(to);
    float lanes[Rows::kLanes];
    sums[i].store(lanes);
    for (int r = 0; row + r < m.rows; ++r) to[r] = m.bias ? lanes[r] + m.bias[row + r] : lanes[r];
  });
}

#if defined(KERNELS_VNNI)

constexpr int kMany = 64;     // activation rows from which on pairs pay
constexpr int kPairTile = 4;  // activation rows of a pair's tile; from kMany on, each has 3 or 4

// Two blocks from `row` on, times N activation rows from i0 on.
template <int N>
void pair(const Matrix& m, const Input& input, int64_t row, int i0, bool is_first, float* y,
          int64_t stride_y) {
  const int64_t groups = (m.cols + kGroup - 1) / kGroup, block = row / kRowBlock;
  const int64_t padded_groups = input.padded / kGroup;
  const uint8_t* w = static_cast<const uint8_t*>(m.weight) + block * groups * kBlockBytes;
  const uint16_t* scales = static_cast<const uint16_t*>(m.scale) + block * groups * kRowBlock;
  const int8_t* x = input.s8 + i0 * int64_t{input.padded};
  const float* x_scale = input.s8_scale + i0 * padded_groups;
  const int32_t* start = input.s8_sum + i0 * padded_groups;
  Lanes sums[2 * N];
  each<2 * N>(BODY(k) { sums[k] = Lanes::zero(); });
  for (int64_t g = 0; g < groups; ++g) {
    Rows::Weights weights[2];
    Lanes scale[2];
    each<2>(BODY(b) {
      const int64_t here = b * groups + g;
      if (is_first) {
        for (int line = 0; line < kBlockBytes; line += 64)
          prefetch(w + here * kBlockBytes + kAhead + line);
        prefetch(scales + (here + kAhead / kBlockBytes) * kRowBlock);
      }
      weights[b] = Rows::unpack(w + here * kBlockBytes);
      scale[b] = Lanes::load_half(scales + here * kRowBlock);
    });
    each<N>(BODY(i) {
      const int64_t at = i * padded_groups + g;
      Lanes exact[2];
      Rows::dots(weights, x + at * kGroup, start[at], exact);
      each<2>(BODY(b) {
        const Lanes both = scale[b].times(Lanes::all(x_scale[at]));
        sums[2 * i + b] = sums[2 * i + b].plus_product(exact[b], both);
      });
    });
  }
  each<2>(BODY(b) {
    const int64_t first = row + b * kRowBlock;
    each<N>(BODY(i) {
      const Lanes sum = sums[2 * i + b];
      (m.bias ? sum.plus(Lanes::load(m.bias + first)) : sum).store(y + (i0 + i) * stride_y + first);
    });
  });
}

// As many whole pairs of blocks as rows [begin, end) have, times all activations. What is left
// begins at the row that is returned.
int64_t pairs(const Matrix& m, const Input& input, int n, int64_t begin, int64_t end, float* y,
              int64_t stride_y) {
  const int tiles = (n + kPairTile - 1) / kPairTile;
  int64_t row = begin;
  for (; row + 2 * kRowBlock <= end; row += 2 * kRowBlock) {
    for (int at = 0; at < tiles; ++at) {
      const Share some = share_of(n, at, tiles);
      const int i0 = static_cast<int>(some.begin);
      some.end - some.begin == kPairTile
          ? pair<kPairTile>(m, input, row, i0, at == 0, y, stride_y)
          : pair<kPairTile - 1>(m, input, row, i0, at == 0, y, stride_y);
    }
  }
  return row;
}

#endif

void tile_of(int count, const Matrix& m, const Input& input, int64_t row, int i0, bool is_first,
             float* y, int64_t stride_y) {
  if constexpr (Rows::kTile >= 12) {
    switch (count) {
      case 5: return tile<5>(m, input, row, i0, is_first, y, stride_y);
      case 6: return tile<6>(m, input, row, i0, is_first, y, stride_y);
      case 7: return tile<7>(m, input, row, i0, is_first, y, stride_y);
      case 8: return tile<8>(m, input, row, i0, is_first, y, stride_y);
      case 9: return tile<9>(m, input, row, i0, is_first, y, stride_y);
      case 10: return tile<10>(m, input, row, i0, is_first, y, stride_y);
      case 11: return tile<11>(m, input, row, i0, is_first, y, stride_y);
      case 12: return tile<12>(m, input, row, i0, is_first, y, stride_y);
    }
  }
  switch (count) {
    case 1: return tile<1>(m, input, row, i0, is_first, y, stride_y);
    case 2: return tile<2>(m, input, row, i0, is_first, y, stride_y);
    case 3: return tile<3>(m, input, row, i0, is_first, y, stride_y);
    case 4: return tile<4>(m, input, row, i0, is_first, y, stride_y);
  }
}

}  // namespace

void int4_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                int thread, int threads) {
  const Share blocks = share_of((matrix.rows + kRowBlock - 1) / kRowBlock, thread, threads);
  const int tiles = (n + Rows::kTile - 1) / Rows::kTile;
  int64_t row = blocks.begin * kRowBlock;
#if defined(KERNELS_VNNI)
  const int64_t last = blocks.end * kRowBlock < matrix.rows ? blocks.end * kRowBlock : matrix.rows;
  if (n >= kMany) row = pairs(matrix, input, n, row, last, y, stride_y);
#endif
  for (; row < blocks.end * kRowBlock; row += Rows::kLanes) {
    if (row >= matrix.rows) return;
    for (int at = 0; at < tiles; ++at) {
      const Share some = share_of(n, at, tiles);
      tile_of(static_cast<int>(some.end - some.begin), matrix, input, row,
              static_cast<int>(some.begin), at == 0, y, stride_y);
    }
  }
}

}  // namespace kernels

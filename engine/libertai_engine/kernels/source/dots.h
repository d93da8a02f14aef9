// Products of matrix rows and activation rows, both along memory: fp32, bf16 and int8.
//
// In: a kind, which says how a piece of a row is loaded and multiplied. Out: y.
// A tile of R matrix rows and N activation rows is held in registers. Each of its R x N sums is one
// vector that grows in the order of the columns, and vectors are summed up in one order: so a
// number does not depend on the tile it is made in.
// Columns are cut into pieces, so that the activations' piece stays in the first-level cache while
// it is multiplied with all rows of a strip; sums wait in memory meanwhile. Every tile fetches the
// rows of the next one, so that the memory works while the processor does.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace kernels {

#if defined(KERNELS_AVX512)
constexpr int kTileSums = 24, kMostInputs = 8, kMostRows = 8;  // of 32 registers
#else
constexpr int kTileSums = 12, kMostInputs = 4, kMostRows = 4;  // of 16 registers
#endif
constexpr int kStripTiles = 4;
constexpr int64_t kPieceBytes = 1 << 14;   // of the activations of a tile
constexpr int64_t kPanelBytes = 1 << 17;   // weights that stay in the second-level cache
constexpr int kEight = 8;                  // vectors that are summed up together

constexpr int rows_of_tile(int n) { return n * kMostRows > kTileSums ? kTileSums / n : kMostRows; }

// A kind has: Weight, Activation, Sum, Loaded, Number; kStep, columns of one step; zero, load,
// load_x, add; totals(sums, numbers), the numbers of eight vectors; and scaled<N>(matrix, input,
// row, i, numbers, y), what they are in y, without the bias.

// Sums of a tile, [R][N], padded so that eight at a time can be summed up.
template <typename K, int R, int N>
struct Sums {
  static constexpr int kCount = (R * N + kEight - 1) / kEight * kEight;
  typename K::Sum of[kCount];
};

// Where a tile finds its operands: rows of weights `cols` apart, of activations `padded` apart.
template <typename K>
struct Operands {
  const typename K::Weight* w;
  int64_t cols;
  const typename K::Activation* x;
  int64_t padded;
};

// Adds the products of columns [begin, end), whole steps. kStarts: to nothing. kFetches: gets the
// rows behind these, too.
// NOTE: a function of its own, because what else happens to the sums would make the compiler keep
// them in memory in this loop.
template <typename K, int R, int N, bool kStarts, bool kFetches>
__attribute__((noinline)) void add_up(const Operands<K>& o, int64_t begin, int64_t end,
                                      Sums<K, R, N>& kept) {
  const typename K::Weight* w = o.w;
  const typename K::Activation* x = o.x;
  const int64_t cols = o.cols, padded = o.padded;
  typename K::Sum sums[R * N];
  each<R * N>(BODY(k) {
    if constexpr (kStarts) {
      sums[k] = K::zero();
    } else {
      sums[k] = kept.of[k];
    }
  });
  for (int64_t col = begin; col < end; col += K::kStep) {
    typename K::Loaded weights[R];
    each<R>(BODY(r) {
      weights[r] = K::load(w + r * cols + col);
      if constexpr (kFetches) prefetch(w + (R + r) * cols + col);
    });
    each<N>(BODY(i) {
      auto activations = K::load_x(x + i * padded + col);
      if constexpr (R > 1) hold(activations);
      each<R>(BODY(r) {
        sums[r * N + i] = K::add(sums[r * N + i], weights[r], activations);
      });
    });
  }
  each<R * N>(BODY(k) { kept.of[k] = sums[k]; });
}

template <typename K, int R, int N>
INLINE void add_piece(const Operands<K>& o, int64_t begin, int64_t end, bool fetches,
                      Sums<K, R, N>& kept) {
  if constexpr (R > 1) {
    if (begin == 0 && fetches) return add_up<K, R, N, true, true>(o, begin, end, kept);
    if (fetches) return add_up<K, R, N, false, true>(o, begin, end, kept);
  }
  if (begin == 0) return add_up<K, R, N, true, false>(o, begin, end, kept);
  add_up<K, R, N, false, false>(o, begin, end, kept);
}

// The columns that do not fill a step.
template <typename K, int R, int N>
__attribute__((noinline)) void add_rest(const Operands<K>& o, Sums<K, R, N>& kept) {
  const int64_t whole = o.cols / K::kStep * K::kStep;
  for (int r = 0; r < R; ++r) {
    alignas(64) typename K::Weight rest[K::kStep] = {};
    std::memcpy(rest, o.w + r * o.cols + whole, (o.cols - whole) * sizeof rest[0]);
    const auto weights = K::load(rest);
    for (int i = 0; i < N; ++i) {
      auto& sum = kept.of[r * N + i];
      sum = K::add(sum, weights, K::load_x(o.x + i * o.padded + whole));
    }
  }
}

template <typename K, int R, int N>
void finish(const Matrix& m, const Input& input, int64_t row, int i0, const Sums<K, R, N>& sums,
            float* y, int64_t stride_y) {
  constexpr int kCount = Sums<K, R, N>::kCount;
  typename K::Number numbers[kCount];
  for (int k = 0; k < kCount; k += kEight) K::totals(sums.of + k, numbers + k);
  float results[R][N];
  for (int r = 0; r < R; ++r)
    K::template scaled<N>(m, input, row + r, i0, numbers + r * N, results[r]);
  if (m.bias) {
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < N; ++i) results[r][i] += m.bias[row + r];
  }
  for (int i = 0; i < N; ++i)
    for (int r = 0; r < R; ++r) y[(i0 + i) * stride_y + row + r] = results[r][i];
}

// Columns of a piece.
template <typename K, int N>
constexpr int64_t piece_of() {
  return kPieceBytes / N / sizeof(typename K::Activation) / kPad * kPad;
}

// `tiles` (up to kStripTiles) tiles, one below the other.
template <typename K, int R, int N>
void strip(const Matrix& m, const Input& input, int64_t row, int tiles, int i0, bool fetches,
           float* y, int64_t stride_y) {
  const auto* w = static_cast<const typename K::Weight*>(m.weight) + row * m.cols;
  const auto* x = K::activations(input) + i0 * int64_t{input.padded};
  const int64_t whole = m.cols / K::kStep * K::kStep;
  const int64_t piece = piece_of<K, N>();
  Sums<K, R, N> sums[kStripTiles];
  for (int64_t begin = 0; begin == 0 || begin < whole; begin += piece) {
    const int64_t end = begin + piece < whole ? begin + piece : whole;
    for (int at = 0; at < tiles; ++at) {
      const Operands<K> o{w + at * R * int64_t{m.cols}, m.cols, x, input.padded};
      add_piece<K, R, N>(o, begin, end, fetches, sums[at]);
    }
  }
  for (int at = 0; at < tiles; ++at) {
    const Operands<K> o{w + at * R * int64_t{m.cols}, m.cols, x, input.padded};
    if (whole < m.cols) add_rest<K, R, N>(o, sums[at]);
    finish<K, R, N>(m, input, row + at * R, i0, sums[at], y, stride_y);
  }
}

// Matrix rows [begin, end) times N activation rows from i0 on.
template <typename K, int N>
void panel(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0, bool is_first,
           float* y, int64_t stride_y) {
  constexpr int R = rows_of_tile(N);
  // What is one piece anyway gains nothing from waiting.
  const int most = m.cols <= piece_of<K, N>() ? 1 : kStripTiles;
  int64_t row = begin;
  while (row + R <= end) {
    const int64_t left = (end - row) / R;
    const int tiles = static_cast<int>(left < most ? left : most);
    strip<K, R, N>(m, input, row, tiles, i0, is_first, y, stride_y);
    row += tiles * R;
  }
  for (; row < end; ++row)  // few, and not worth tiles of their own
    for (int i = 0; i < N; ++i) strip<K, 1, 1>(m, input, row, 1, i0 + i, false, y, stride_y);
}

template <typename K>
void panel_of(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0, int count,
              bool is_first, float* y, int64_t stride_y) {
  switch (count) {
    case 1: return panel<K, 1>(m, input, begin, end, i0, is_first, y, stride_y);
    case 2: return panel<K, 2>(m, input, begin, end, i0, is_first, y, stride_y);
    case 3: return panel<K, 3>(m, input, begin, end, i0, is_first, y, stride_y);
    case 4: return panel<K, 4>(m, input, begin, end, i0, is_first, y, stride_y);
  }
  if constexpr (kMostInputs >= 8) {
    switch (count) {
      case 5: return panel<K, 5>(m, input, begin, end, i0, is_first, y, stride_y);
      case 6: return panel<K, 6>(m, input, begin, end, i0, is_first, y, stride_y);
      case 7: return panel<K, 7>(m, input, begin, end, i0, is_first, y, stride_y);
      case 8: return panel<K, 8>(m, input, begin, end, i0, is_first, y, stride_y);
    }
  }
}

// One thread's rows. Weights come from memory once for each panel, and are used for all activations
// while they are in the cache.
template <typename K>
void dots_slice(const Matrix& m, const Input& input, int n, float* y, int64_t stride_y, int thread,
                int threads) {
  const Share blocks = share_of((m.rows + kRowBlock - 1) / kRowBlock, thread, threads);
  const int64_t last = blocks.end * kRowBlock < m.rows ? blocks.end * kRowBlock : m.rows;
  const int64_t row_bytes = int64_t{m.cols} * sizeof(typename K::Weight);
  const int groups = (n + kMostInputs - 1) / kMostInputs;
  const int64_t strips = groups == 1 ? m.rows : kPanelBytes / row_bytes / 96 + 1;
  const int64_t step = strips * 96;  // whole strips of most sizes of tiles
  for (int64_t row = blocks.begin * kRowBlock; row < last; row += step) {
    const int64_t end = row + step < last ? row + step : last;
    for (int at = 0; at < groups; ++at) {
      const Share some = share_of(n, at, groups);
      const int i0 = static_cast<int>(some.begin), count = static_cast<int>(some.end) - i0;
      panel_of<K>(m, input, row, end, i0, count, at == 0, y, stride_y);
    }
  }
}

}  // namespace kernels

// Products of matrix rows and activation rows, both along memory: fp32, bf16 and int8.
//
// In: a kind, which says how a piece of a row is loaded and multiplied. Out: y.
// A tile of R matrix rows and N activation rows is held in registers. Each of its R x N sums is one
// vector that grows in the order of the columns, and vectors are summed up in one order: so a
// number does not depend on the tile it is made in.
// Every tile fetches rows that come later, so that the memory works while the processor does.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace kernels {

#if defined(KERNELS_AVX512)
constexpr int kTileSums = 24, kMostInputs = 8, kMostRows = 8;  // of 32 registers
#else
constexpr int kTileSums = 12, kMostInputs = 4, kMostRows = 4;  // of 16 registers
#endif
constexpr int64_t kPanelBytes = 1 << 18;  // weights that stay in the second-level cache
constexpr int64_t kPanelRows = 24;        // whole tiles of most sizes
constexpr int kEight = 8;                 // vectors that are summed up together

constexpr int rows_of_tile(int n) { return n * kMostRows > kTileSums ? kTileSums / n : kMostRows; }

// A kind has: Weight, Activation, Sum, Loaded, Number; kStep, columns of one step; zero, load,
// load_x, add; totals(sums, numbers), the numbers of eight vectors; and scaled<N>(matrix, input,
// row, i, numbers, y), what they are in y, without the bias.

// Where a tile finds its operands: rows of weights `cols` apart, of activations `padded` apart; and
// weights to fetch, `ahead` elements behind its own.
template <typename K>
struct Operands {
  const typename K::Weight* w;
  int64_t cols;
  const typename K::Activation* x;
  int64_t padded;
  int64_t ahead;
};

// The columns that do not fill a step.
template <typename K, int R, int N>
__attribute__((noinline)) void add_rest(const Operands<K>& o, typename K::Sum* sums) {
  const int64_t whole = o.cols / K::kStep * K::kStep;
  for (int r = 0; r < R; ++r) {
    alignas(64) typename K::Weight rest[K::kStep] = {};
    std::memcpy(rest, o.w + r * o.cols + whole, (o.cols - whole) * sizeof rest[0]);
    const auto weights = K::load(rest);
    for (int i = 0; i < N; ++i) {
      auto& sum = sums[r * N + i];
      sum = K::add(sum, weights, K::load_x(o.x + i * o.padded + whole));
    }
  }
}

// How many numbers a tile has, padded so that eight at a time can be summed up.
template <int R, int N>
constexpr int kNumbers = (R * N + kEight - 1) / kEight * kEight;

// The numbers of a tile, [R][N].
// NOTE: sums are held behind the loop, because what else happens to them would make the compiler
// keep them in memory in it.
template <typename K, int R, int N, bool kFetches>
void add_up(const Operands<K>& o, typename K::Number* numbers) {
  const typename K::Weight* w = o.w;
  const typename K::Activation* x = o.x;
  const int64_t cols = o.cols, padded = o.padded, ahead = o.ahead;
  const int64_t whole = cols / K::kStep * K::kStep;
  typename K::Sum sums[R * N];
  each<R * N>(BODY(k) { sums[k] = K::zero(); });
  for (int64_t col = 0; col < whole; col += K::kStep) {
    typename K::Loaded weights[R];
    each<R>(BODY(r) {
      weights[r] = K::load(w + r * cols + col);
      if constexpr (kFetches) prefetch(w + ahead + r * cols + col);
    });
    each<N>(BODY(i) {
      auto activations = K::load_x(x + i * padded + col);
      if constexpr (R > 1) hold(activations);
      each<R>(BODY(r) {
        sums[r * N + i] = K::add(sums[r * N + i], weights[r], activations);
      });
    });
  }
  each<R * N>(BODY(k) { hold(sums[k]); });
  if (whole < cols) {
    typename K::Sum kept[R * N];
    each<R * N>(BODY(k) { kept[k] = sums[k]; });
    add_rest<K, R, N>(o, kept);
    each<R * N>(BODY(k) { sums[k] = kept[k]; });
  }
  each<kNumbers<R, N> / kEight>(BODY(j) {
    typename K::Sum eight[kEight];
    each<kEight>(BODY(k) {
      constexpr int kIndex = j * kEight + k;
      eight[k] = sums[kIndex < R * N ? kIndex : 0];
    });
    K::totals(eight, numbers + j * kEight);
  });
}

// R matrix rows from `row` on times N activation rows from i0 on. ahead: rows; 0 fetches nothing.
template <typename K, int R, int N>
void tile(const Matrix& m, const Input& input, int64_t row, int i0, int64_t ahead, float* y,
          int64_t stride_y) {
  const auto* w = static_cast<const typename K::Weight*>(m.weight) + row * m.cols;
  const auto* x = K::activations(input) + i0 * int64_t{input.padded};
  const Operands<K> o{w, m.cols, x, input.padded, ahead * m.cols};
  typename K::Number numbers[kNumbers<R, N>];
  ahead ? add_up<K, R, N, true>(o, numbers) : add_up<K, R, N, false>(o, numbers);
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

// Weights that are to be fetched meanwhile: every `turns`-th tile, the `turn`-th to begin with,
// fetches those `ahead` rows behind its own; 0 means the next tile's.
struct Fetching {
  int turns, turn;
  int64_t ahead;
};

// Matrix rows [begin, end) times N activation rows from i0 on.
template <typename K, int N>
void panel(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0,
           const Fetching& fetching, float* y, int64_t stride_y) {
  constexpr int R = rows_of_tile(N);
  int64_t row = begin;
  for (int turn = fetching.turn; row + R <= end; row += R, ++turn) {
    const int64_t ahead = turn % fetching.turns ? 0 : fetching.ahead ? fetching.ahead : R;
    tile<K, R, N>(m, input, row, i0, ahead, y, stride_y);
  }
  for (; row < end; ++row)  // few, and not worth tiles of their own
    for (int i = 0; i < N; ++i) tile<K, 1, 1>(m, input, row, i0 + i, 0, y, stride_y);
}

template <typename K>
void panel_of(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0, int count,
              const Fetching& fetching, float* y, int64_t stride_y) {
  switch (count) {
    case 1: return panel<K, 1>(m, input, begin, end, i0, fetching, y, stride_y);
    case 2: return panel<K, 2>(m, input, begin, end, i0, fetching, y, stride_y);
    case 3: return panel<K, 3>(m, input, begin, end, i0, fetching, y, stride_y);
    case 4: return panel<K, 4>(m, input, begin, end, i0, fetching, y, stride_y);
  }
  if constexpr (kMostInputs >= 8) {
    switch (count) {
      case 5: return panel<K, 5>(m, input, begin, end, i0, fetching, y, stride_y);
      case 6: return panel<K, 6>(m, input, begin, end, i0, fetching, y, stride_y);
      case 7: return panel<K, 7>(m, input, begin, end, i0, fetching, y, stride_y);
      case 8: return panel<K, 8>(m, input, begin, end, i0, fetching, y, stride_y);
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
  const int64_t most = (kPanelBytes / row_bytes / kPanelRows + 1) * kPanelRows;
  const int64_t step = groups == 1 ? m.rows : most;
  for (int64_t row = blocks.begin * kRowBlock; row < last; row += step) {
    const int64_t end = row + step < last ? row + step : last;
    for (int at = 0; at < groups; ++at) {
      const Share some = share_of(n, at, groups);
      const int i0 = static_cast<int>(some.begin), count = static_cast<int>(some.end) - i0;
      panel_of<K>(m, input, row, end, i0, count, {groups, at, groups == 1 ? 0 : step}, y, stride_y);
    }
  }
}

}  // namespace kernels

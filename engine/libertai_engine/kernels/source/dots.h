// Products of matrix rows and activation rows, both along memory: fp32, bf16 and int8.
//
// In: a kind, which says how a piece of a row is loaded and multiplied. Out: y.
// A tile of R matrix rows and N activation rows is held in registers. Each of its R x N sums is one
// vector that grows in the order of the columns, so a sum does not depend on the tile it is made in.
#pragma once

#include "parallel.h"
#include "simd.h"

namespace kernels {

constexpr int kTileRegisters = 24;        // sums a tile may hold; the rest of 32 is for operands
constexpr int64_t kPanelBytes = 1 << 17;  // weights that stay in the second-level cache

constexpr int rows_of_tile(int n) { return n <= 2 ? 8 : kTileRegisters / n; }

// A kind has: Weight, Activation, Sum; kStep, columns of one step; zero, load, load_x, add; and
// result(matrix, input, row, i, sum).

template <typename K, int R, int N>
struct Sums {
  typename K::Sum of[R][N];
};

// Sums over whole steps. NOTE: a function of its own, because what else happens to the sums would
// make the compiler keep them in memory here.
template <typename K, int R, int N>
__attribute__((noinline)) void add_up(const typename K::Weight* w, int64_t cols,
                                      const typename K::Activation* x, int64_t padded,
                                      const typename K::Weight* ahead, Sums<K, R, N>& out) {
  typename K::Sum sums[R][N];
  each<R>(BODY(r) { each<N>(BODY(i) { sums[r][i] = K::zero(); }); });
  for (int64_t col = 0; col + K::kStep <= cols; col += K::kStep) {
    typename K::Loaded weights[R];
    each<R>(BODY(r) {
      weights[r] = K::load(w + r * cols + col);
      prefetch(ahead + r * cols + col);
    });
    each<N>(BODY(i) {
      const auto activations = K::load_x(x + i * padded + col);
      each<R>(BODY(r) { sums[r][i] = K::add(sums[r][i], weights[r], activations); });
    });
  }
  each<R>(BODY(r) { each<N>(BODY(i) { out.of[r][i] = sums[r][i]; }); });
}

// The columns that do not fill a step.
template <typename K, int R, int N>
__attribute__((noinline)) void add_rest(const typename K::Weight* w, int64_t cols,
                                        const typename K::Activation* x, int64_t padded,
                                        Sums<K, R, N>& out) {
  const int64_t whole = cols / K::kStep * K::kStep;
  for (int r = 0; r < R; ++r) {
    alignas(64) typename K::Weight rest[K::kStep] = {};
    std::memcpy(rest, w + r * cols + whole, (cols - whole) * sizeof(typename K::Weight));
    const auto weights = K::load(rest);
    for (int i = 0; i < N; ++i)
      out.of[r][i] = K::add(out.of[r][i], weights, K::load_x(x + i * padded + whole));
  }
}

// `ahead` rows after these are fetched meanwhile.
template <typename K, int R, int N>
void tile(const Matrix& m, const Input& input, int64_t row, int i0, int64_t ahead, float* y,
          int64_t stride_y) {
  const auto* w = static_cast<const typename K::Weight*>(m.weight) + row * m.cols;
  const auto* x = K::activations(input) + static_cast<int64_t>(i0) * input.padded;
  Sums<K, R, N> sums;
  add_up<K, R, N>(w, m.cols, x, input.padded, w + ahead * m.cols, sums);
  if (m.cols % K::kStep) add_rest<K, R, N>(w, m.cols, x, input.padded, sums);
  for (int i = 0; i < N; ++i)
    for (int r = 0; r < R; ++r)
      y[(i0 + i) * stride_y + row + r] = K::result(m, input, row + r, i0 + i, sums.of[r][i]);
}

// Rows [begin, end) times N activation rows from i0 on.
template <typename K, int N>
void panel(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0, bool is_first,
           float* y, int64_t stride_y) {
  constexpr int R = rows_of_tile(N);
  int64_t row = begin;
  for (; row + R <= end; row += R) {
    tile<K, R, N>(m, input, row, i0, is_first ? R : 0, y, stride_y);
  }
  for (; row < end; ++row) tile<K, 1, N>(m, input, row, i0, 0, y, stride_y);
}

template <typename K>
void panel_of(const Matrix& m, const Input& input, int64_t begin, int64_t end, int i0, int count,
              bool is_first, float* y, int64_t stride_y) {
  switch (count) {
    case 1: return panel<K, 1>(m, input, begin, end, i0, is_first, y, stride_y);
    case 2: return panel<K, 2>(m, input, begin, end, i0, is_first, y, stride_y);
    case 3: return panel<K, 3>(m, input, begin, end, i0, is_first, y, stride_y);
    case 4: return panel<K, 4>(m, input, begin, end, i0, is_first, y, stride_y);
    case 5: return panel<K, 5>(m, input, begin, end, i0, is_first, y, stride_y);
    case 6: return panel<K, 6>(m, input, begin, end, i0, is_first, y, stride_y);
    case 7: return panel<K, 7>(m, input, begin, end, i0, is_first, y, stride_y);
    case 8: return panel<K, 8>(m, input, begin, end, i0, is_first, y, stride_y);
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
  const int64_t step = kPanelBytes / row_bytes / 24 * 24 + 24;  // whole tiles of every size
  const int tiles = (n + 7) / 8;
  for (int64_t row = blocks.begin * kRowBlock; row < last; row += n <= 8 ? last : step) {
    const int64_t end = n <= 8 || row + step > last ? last : row + step;
    for (int at = 0; at < tiles; ++at) {
      const Share some = share_of(n, at, tiles);
      const int count = static_cast<int>(some.end - some.begin);
      panel_of<K>(m, input, row, end, static_cast<int>(some.begin), count, at == 0, y, stride_y);
    }
  }
}

}  // namespace kernels

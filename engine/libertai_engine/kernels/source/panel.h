// int8 weights times many activation rows, with VNNI.
//
// In: what linear_slice is given. Out: the numbers of dots.h, bit for bit: integers add up exactly.
// A panel of 48 matrix rows is put in another order first, four columns of 16 rows in a vector, so
// that a sum keeps a lane for each matrix row and none is taken across lanes. That pays when many
// activation rows share it. Every tile fetches its share of the panel behind.
#pragma once

#include "entry.h"
#include "parallel.h"
#include "simd.h"

#if defined(KERNELS_VNNI)

namespace kernels {

constexpr int kMany = 48;      // activation rows from which on the new order pays
constexpr int kLines = 3;      // vectors of a panel, of kRowBlock rows each
constexpr int kPanelTile = 8;  // activation rows of a tile: 24 sums of 32 registers
constexpr int kVector = 64;    // bytes of a vector

// A panel: `lines` times 16 rows from `row` on, of which `rows` exist; w is the first one. Owns
// nothing.
struct Panel {
  const int8_t* w;
  int64_t row, rows, cols;
  int lines;
};

// 16 vectors of 16 numbers: number i of vector k becomes number k of vector i.
INLINE void transpose(__m512i* v) {
  __m512i t[16];
  each<8>(BODY(k) {
    t[2 * k] = _mm512_unpacklo_epi32(v[2 * k], v[2 * k + 1]);
    t[2 * k + 1] = _mm512_unpackhi_epi32(v[2 * k], v[2 * k + 1]);
  });
  each<4>(BODY(k) {
    v[4 * k] = _mm512_unpacklo_epi64(t[4 * k], t[4 * k + 2]);
    v[4 * k + 1] = _mm512_unpackhi_epi64(t[4 * k], t[4 * k + 2]);
    v[4 * k + 2] = _mm512_unpacklo_epi64(t[4 * k + 1], t[4 * k + 3]);
    v[4 * k + 3] = _mm512_unpackhi_epi64(t[4 * k + 1], t[4 * k + 3]);
  });
  each<4>(BODY(k) {
    t[k] = _mm512_shuffle_i32x4(v[k], v[4 + k], 0x88);
    t[4 + k] = _mm512_shuffle_i32x4(v[k], v[4 + k], 0xdd);
    t[8 + k] = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0x88);
    t[12 + k] = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0xdd);
  });
  each<4>(BODY(k) {
    v[k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0x88);
    v[8 + k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0xdd);
    v[4 + k] = _mm512_shuffle_i32x4(t[4 + k], t[12 + k], 0x88);
    v[12 + k] = _mm512_shuffle_i32x4(t[4 + k], t[12 + k], 0xdd);
  });
}

// The panel as [quad of columns][line][16 rows][4 columns], zeros where there is no weight.
inline void reorder(const Panel& panel, int8_t* to) {
  for (int line = 0; line < panel.lines; ++line) {
    for (int64_t col = 0; col < panel.cols; col += kVector) {
      const int64_t left = panel.cols - col;
      const __mmask64 mask = left >= kVector ? ~0ull : (1ull << left) - 1;
      __m512i rows[kRowBlock];
      each<kRowBlock>(BODY(r) {
        const int64_t row = line * kRowBlock + r;
        rows[r] = row < panel.rows ? _mm512_maskz_loadu_epi8(mask, panel.w + row * panel.cols + col)
                                   : _mm512_setzero_si512();
      });
      transpose(rows);
      each<16>(BODY(q) {
        _mm512_store_si512(to + ((col / 4 + q) * panel.lines + line) * kVector, rows[q]);
      });
    }
  }
}

// Sums [N][L] of a tile; fetches rows [first, last) of `next`.
template <int L, int N>
__attribute__((noinline)) void panel_tile(const int8_t* w, const uint8_t* x, int64_t padded,
                                          const Panel& next, Share fetched, int64_t vectors,
                                          __m512i* to) {
  __m512i sums[N * L];
  each<N * L>(BODY(k) { sums[k] = _mm512_setzero_si512(); });
  for (int64_t v = 0; v < vectors; ++v) {
    for (int64_t row = fetched.begin; row < fetched.end; ++row)
      prefetch(next.w + row * next.cols + v * kVector);
    for (int q = 0; q < kVector / 4; ++q, w += L * kVector, x += 4) {
      __m512i weights[L];
      each<L>(BODY(l) { weights[l] = _mm512_load_si512(w + l * kVector); });
      each<N>(BODY(i) {
        int32_t four;
        std::memcpy(&four, x + i * padded, 4);
        __m512i activations = _mm512_set1_epi32(four);
        hold(activations);
        each<L>(BODY(l) {
          sums[i * L + l] = _mm512_dpbusd_epi32(sums[i * L + l], activations, weights[l]);
        });
      });
    }
  }
  each<N * L>(BODY(k) { to[k] = sums[k]; });
}

// What the sums [count][lines] of a tile are in y.
inline void put(const Matrix& m, const Input& input, int i0, int count, const Panel& panel,
                const __m512i* sums, float* y, int64_t stride_y) {
  for (int line = 0; line < panel.lines; ++line) {
    const int64_t row = panel.row + line * kRowBlock, left = panel.row + panel.rows - row;
    const __mmask16 mask = left >= kRowBlock ? 0xffff : left > 0 ? (1u << left) - 1 : 0;
    const __m512i surplus = _mm512_slli_epi32(
        _mm512_maskz_loadu_epi32(mask, static_cast<const int32_t*>(m.extra) + row), 7);
    const __m512 scale = _mm512_maskz_loadu_ps(mask, static_cast<const float*>(m.scale) + row);
    for (int i = 0; i < count; ++i) {
      const __m512i exact = _mm512_sub_epi32(sums[i * panel.lines + line], surplus);
      __m512 number = _mm512_mul_ps(
          _mm512_cvtepi32_ps(exact), _mm512_mul_ps(scale, _mm512_set1_ps(input.u8_scale[i0 + i])));
      if (m.bias) number = _mm512_add_ps(number, _mm512_maskz_loadu_ps(mask, m.bias + row));
      _mm512_mask_storeu_ps(y + (i0 + i) * stride_y + row, mask, number);
    }
  }
}

// A panel of L lines, put in order, times all activation rows.
template <int L>
void panel_times_all(const Matrix& m, const Input& input, int n, const Panel& panel,
                     const Panel& next, const int8_t* ordered, float* y, int64_t stride_y) {
  const int64_t vectors = (m.cols + kVector - 1) / kVector;
  const int tiles = (n + kPanelTile - 1) / kPanelTile;
  for (int at = 0; at < tiles; ++at) {
    const Share some = share_of(n, at, tiles), fetched = share_of(next.rows, at, tiles);
    const int i0 = static_cast<int>(some.begin), count = static_cast<int>(some.end) - i0;
    const uint8_t* x = input.u8 + i0 * int64_t{input.padded};
    __m512i sums[kPanelTile * L];
    // From kMany rows on, tiles have 7 or 8.
    count == kPanelTile
        ? panel_tile<L, kPanelTile>(ordered, x, input.padded, next, fetched, vectors, sums)
        : panel_tile<L, kPanelTile - 1>(ordered, x, input.padded, next, fetched, vectors, sums);
    put(m, input, i0, count, panel, sums, y, stride_y);
  }
}

// False where memory ran out, and nothing is done. n >= kMany.
inline bool panels_slice(const Matrix& m, const Input& input, int n, float* y, int64_t stride_y,
                         int thread, int threads) {
  thread_local Workspace workspace;
  const int64_t columns = (m.cols + int64_t{kVector} - 1) / kVector * kVector;
  auto* ordered = reinterpret_cast<int8_t*>(workspace.at_least(columns * kLines * kRowBlock));
  if (!ordered) return false;
  const Share blocks = share_of((m.rows + kRowBlock - 1) / kRowBlock, thread, threads);
  const auto panel_at = [&](int64_t block) {
    const int64_t row = block * kRowBlock, lines = blocks.end - block;
    Panel panel{static_cast<const int8_t*>(m.weight) + row * m.cols, row, 0, m.cols,
                static_cast<int>(lines < kLines ? lines : kLines)};
    const int64_t left = m.rows - row, full = panel.lines * kRowBlock;
    panel.rows = left < full ? left : full;
    return panel;
  };
  for (int64_t block = blocks.begin; block < blocks.end; block += kLines) {
    const Panel panel = panel_at(block);
    Panel next = panel;
    next.rows = 0;
    if (block + kLines < blocks.end) next = panel_at(block + kLines);
    reorder(panel, ordered);
    switch (panel.lines) {
      case 1: panel_times_all<1>(m, input, n, panel, next, ordered, y, stride_y); break;
      case 2: panel_times_all<2>(m, input, n, panel, next, ordered, y, stride_y); break;
      default: panel_times_all<3>(m, input, n, panel, next, ordered, y, stride_y);
    }
  }
  return true;
}

}  // namespace kernels

#endif

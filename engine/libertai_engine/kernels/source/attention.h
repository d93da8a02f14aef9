// Attention of one token over one chunk of its lane, and chunks put together.
//
// In: queries of the heads that share one key head; keys and values where the lane has them.
// Out: for each head a part of a softmax (largest score, sum of weights, weighted values), then the
// whole one. Chunks begin at fixed positions, so the result depends on nothing but query and lane.
//
// Heads stand side by side in the lanes of a vector, so scores need no sums across lanes: a query
// is stored as [head_dim, W], and each entry of a key is multiplied with all heads at once.
#pragma once

#include <algorithm>
#include <limits>

#include "attention_bf16.h"
#include "vector.h"

namespace kernels::decode {

constexpr int kChunk = 256;  // positions
constexpr int kPartHead = kLanes;  // a part is [largest, sum, ...] and its values from here on

inline int64_t part_size(int head_dim) {
  return kPartHead + (head_dim + kLanes - 1) / kLanes * kLanes;
}

// True if lanes of this kind are read without widening them first; queries are then pairs of bf16.
template <typename Lane>
inline bool reads_pairs(int head_dim) {
  return kHasPairs && sizeof(Lane) == 2 && head_dim % 32 == 0;
}

// One entry of a query in column `g` of [head_dim, W], or of [head_dim / 2, W] pairs of bf16.
inline void put_query(bool as_pairs, int width, int g, int i, float x, float* query) {
  if (as_pairs) {
    reinterpret_cast<uint16_t*>(query)[(i / 2 * width + g) * 2 + i % 2] = to_bf16(x);
  } else {
    query[i * width + g] = x;
  }
}

// Scores [count, W] of a query [head_dim, W] that is scaled already.
template <int W, typename Lane>
inline void score(const float* query, const Lane* keys, int count, int head_dim, float* scores) {
  using Vector = typename Wide<W>::Floats;
  alignas(64) float rows[kTogether][kMaxHeadDim];
  for (int j = 0; j < count; j += kTogether) {
    const int n = std::min(kTogether, count - j);
    for (int r = 0; r < n; ++r) widen_row(keys + int64_t{j + r} * head_dim, head_dim, rows[r]);
    const float* row[kTogether];
    for (int r = 0; r < kTogether; ++r) row[r] = rows[r < n ? r : 0];
    Vector sums[kTogether] = {};
    for (int i = 0; i < head_dim; ++i) {
      const Vector q = load<W>(query + i * W);
      for (int r = 0; r < kTogether; ++r) sums[r] += q * row[r][i];
    }
    for (int r = 0; r < n; ++r) store(scores + (j + r) * W, sums[r]);
  }
}

// Scores [count, W] become weights, largest and sum [W] of each head. There is room for a vector
// behind the last position.
template <int W>
inline void weigh(float* scores, int count, float* largest, float* sum) {
  const int used = count * W, end = (used + kLanes - 1) / kLanes * kLanes;
  std::fill(scores + used, scores + end, -std::numeric_limits<float>::infinity());
  Floats most = Floats{} - 1e30f, total{};  // finite, so that a head may see nothing here
  for (int j = 0; j < end; j += kLanes) {
    const Floats x = load(scores + j);
    most = x > most ? x : most;
  }
  float both[kLanes];  // a vector holds kLanes / W positions
  store(both, most);
  for (int i = W; i < kLanes; ++i) both[i % W] = std::max(both[i % W], both[i]);
  for (int i = W; i < kLanes; ++i) both[i] = both[i % W];
  std::copy_n(both, W, largest);
  most = load(both);
  for (int j = 0; j < end; j += kLanes) {
    const Floats weight = exp_of<kLanes>(load(scores + j) - most);
    store(scores + j, weight);
    total += weight;
  }
  store(both, total);
  for (int i = W; i < kLanes; ++i) both[i % W] += both[i];
  std::copy_n(both, W, sum);
}

// G heads times V vectors of values [n, stride]: out [G, out_stride] grows by weights [n, W].
template <int W, int G, int V>
inline void mix_tile(const float* weights, const float* values, int n, int stride, float* out,
                     int64_t out_stride) {
  Floats sums[G][V];
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < V; ++v) sums[g][v] = load(out + g * out_stride + v * kLanes);
  }
  for (int j = 0; j < n; ++j) {
    for (int v = 0; v < V; ++v) {
      const Floats value = load(values + j * stride + v * kLanes);
      for (int g = 0; g < G; ++g) sums[g][v] += value * weights[j * W + g];
    }
  }
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < V; ++v) store(out + g * out_stride + v * kLanes, sums[g][v]);
  }
}

// Adds weights [count, W] times values to out [group, stride].
template <int W, typename Lane>
inline void mix(const float* weights, int group, const Lane* values, int count, int head_dim,
                float* out, int64_t stride) {
  alignas(64) float rows[kBlock * kMaxHeadDim];
  const int padded = (head_dim + kLanes - 1) / kLanes * kLanes;
  for (int j = 0; j < count; j += kBlock) {
    const int n = std::min(kBlock, count - j);
    for (int r = 0; r < n; ++r) {
      widen_row(values + int64_t{j + r} * head_dim, head_dim, rows + r * padded);
      std::fill(rows + r * padded + head_dim, rows + (r + 1) * padded, 0.0f);
    }
    for (int g = 0; g < group;) {
      const int heads = group - g >= 4 ? 4 : group - g >= 2 ? 2 : 1;
      for (int i = 0; i < padded;) {
        const int vectors = padded - i >= 4 * kLanes ? 4 : 1;
        const auto tile = heads == 4 ? (vectors == 4 ? mix_tile<W, 4, 4> : mix_tile<W, 4, 1>)
                        : heads == 2 ? (vectors == 4 ? mix_tile<W, 2, 4> : mix_tile<W, 2, 1>)
                                     : (vectors == 4 ? mix_tile<W, 1, 4> : mix_tile<W, 1, 1>);
        tile(weights + j * W + g, rows + i, n, padded, out + g * stride + i, stride);
        i += vectors * kLanes;
      }
      g += heads;
    }
  }
}

// `count` positions of one lane and key head, for `group` <= W heads. A head's part lies `stride`
// behind the one before. `hide(scores)` may put -infinity where a head must not look.
template <int W, typename Lane, typename Hide>
inline void attend_chunk(const float* query, int group, const Lane* keys, const Lane* values,
                         int count, int head_dim, float* parts, int64_t stride, const Hide& hide) {
  alignas(64) float scores[kChunk * W + kLanes];
  float largest[W], sum[W];
  const bool as_pairs = reads_pairs<Lane>(head_dim);
  if (as_pairs) {
    score_pairs<W>(query, keys, count, head_dim, scores);
  } else {
    score<W>(query, keys, count, head_dim, scores);
  }
  hide(scores);
  weigh<W>(scores, count, largest, sum);
  for (int g = 0; g < group; ++g) {
    float* part = parts + g * stride;
    part[0] = largest[g];
    part[1] = sum[g];
    std::fill(part + kPartHead, part + part_size(head_dim), 0.0f);
  }
  if (as_pairs) {
    mix_pairs<W>(scores, group, values, count, head_dim, parts + kPartHead, stride);
  } else {
    mix<W>(scores, group, values, count, head_dim, parts + kPartHead, stride);
  }
}

// A part that has seen nothing.
inline void clear(float* part, int head_dim) {
  std::fill_n(part, part_size(head_dim), 0.0f);
  part[0] = -1e30f;
}

// `part` grows by what `more` has seen. (Milakov and Gimelshein, 2018)
inline void merge(float* part, const float* more, int head_dim) {
  const float largest = std::max(part[0], more[0]);
  const float old = exp_of(part[0] - largest), share = exp_of(more[0] - largest);
  part[0] = largest;
  part[1] = old * part[1] + share * more[1];
  for (int i = kPartHead; i < part_size(head_dim); ++i) part[i] = old * part[i] + share * more[i];
}

// The whole softmax of one head from its parts, which lie one behind the other.
inline void join(const float* parts, int64_t count, int head_dim, float* out) {
  const int64_t size = part_size(head_dim);
  float largest = parts[0];
  for (int64_t c = 1; c < count; ++c) largest = std::max(largest, parts[c * size]);
  float sum = 0;
  std::fill_n(out, head_dim, 0.0f);
  for (int64_t c = 0; c < count; ++c) {
    const float* part = parts + c * size;
    const float weight = exp_of(part[0] - largest);
    sum += weight * part[1];
    add_scaled(weight, part + kPartHead, out, head_dim);
  }
  const float share = 1.0f / sum;
  for (int i = 0; i < head_dim; ++i) out[i] *= share;
}

}  // namespace kernels::decode

// Attention of one token over one chunk of its lane, and chunks put together.
//
// In: queries of the heads that share one key head; keys and values where the lane has them.
// Out: for each head a part of a softmax (largest score, sum of weights, weighted values), then the
// whole one. Chunks begin at fixed positions, so the result depends on nothing but query and lane.
#pragma once

#include <algorithm>
#include <limits>

#include "vector.h"

namespace kernels {

constexpr int kChunk = 256;        // positions
constexpr int kMaxGroup = 8;       // heads handled together; more of them take turns
constexpr int kMaxHeadDim = 512;
constexpr int kPartHead = kLanes;  // a part is [largest, sum, …] and its values from here on

inline int64_t part_size(int head_dim) {
  return kPartHead + (head_dim + kLanes - 1) / kLanes * kLanes;
}

// Scores [group, kChunk] of queries [group, head_dim], which are scaled already.
template <typename Lane>
inline void score(const float* queries, int group, const Lane* keys, int count, int head_dim,
                  float* scores) {
  for (int j = 0; j < count; ++j) {
    const Lane* key = keys + int64_t{j} * head_dim;
    for (int g = 0; g < group; ++g) {
      scores[g * kChunk + j] = dot(queries + g * head_dim, key, head_dim);
    }
  }
}

// Scores [count] become weights. Largest and sum go into `part`.
inline void weigh(float* scores, int count, float* part) {
  // NOTE: the loops run over whole vectors, so what lies behind `count` must weigh nothing.
  const int end = (count + kLanes - 1) / kLanes * kLanes;
  for (int j = count; j < end; ++j) scores[j] = -std::numeric_limits<float>::infinity();
  Floats most = load(scores);
  for (int j = kLanes; j < end; j += kLanes) {
    const Floats x = load(scores + j);
    most = x > most ? x : most;
  }
  float largest = most[0];
  for (int i = 1; i < kLanes; ++i) largest = std::max(largest, most[i]);
  Floats sum{};
  for (int j = 0; j < end; j += kLanes) {
    const Floats weight = exp_of(load(scores + j) - largest);
    store(scores + j, weight);
    sum += weight;
  }
  part[0] = largest;
  part[1] = sum_of(sum);
}

// Adds weights [group, kChunk] times values to out [group, head_dim], rows `stride` apart.
template <typename Lane>
inline void mix(const float* weights, int group, const Lane* values, int count, int head_dim,
                float* out, int64_t stride) {
  for (int j = 0; j < count; ++j) {
    const Lane* value = values + int64_t{j} * head_dim;
    for (int g = 0; g < group; ++g) {
      add_scaled(weights[g * kChunk + j], value, out + g * stride, head_dim);
    }
  }
}

// `count` positions of one lane and key head, for `group` heads of one token. A head's part lies
// `stride` behind the one before.
template <typename Lane>
inline void attend_chunk(const float* queries, int group, const Lane* keys, const Lane* values,
                         int count, int head_dim, float* parts, int64_t stride) {
  alignas(64) float scores[kMaxGroup * kChunk];
  for (int first = 0; first < group; first += kMaxGroup) {
    const int n = std::min(kMaxGroup, group - first);
    float* part = parts + first * stride;
    score(queries + int64_t{first} * head_dim, n, keys, count, head_dim, scores);
    for (int g = 0; g < n; ++g) {
      weigh(scores + g * kChunk, count, part + g * stride);
      std::fill_n(part + g * stride + kPartHead, head_dim, 0.0f);
    }
    mix(scores, n, values, count, head_dim, part + kPartHead, stride);
  }
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

}  // namespace kernels

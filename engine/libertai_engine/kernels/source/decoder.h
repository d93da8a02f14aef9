// A decoder of Llama's kind: what it consists of, and what one step asks of it.
//
// In: addresses of weights, gains and lanes, all of which stay the caller's. The structs are filled
// in from Python, whose fields stand in the same order (model/lean_structs.py).
#pragma once

#include <cstdint>

#include "linear.h"

namespace kernels {

struct DecoderLayer {
  Matrix q, k, v, o, gate, up, down;
  const float* norm_in;   // [hidden]
  const float* norm_mid;  // [hidden]
  const float* q_gain;    // [head_dim], or null: no norm of the heads
  const float* k_gain;
  int32_t rotates;  // 0: this layer knows no positions
  int32_t window;   // positions that a token sees, itself included; 0: all
};

struct DecoderShape {
  int32_t layers, hidden, heads, kv_heads, head_dim, rotary_dim, inner, activation, max_tokens;
  float epsilon, head_epsilon, score_scale, residual_scale, logit_scale, rotary_scale,
      embedding_scale;
  const float* frequencies;  // [rotary_dim / 2], radians a position
  const float* norm_out;     // [hidden]
  Matrix head, embedding;    // embedding.weight is null where the step brings the vectors
  const DecoderLayer* layer;
};

// Keys and values [slot, kv_head, position, head_dim] of each layer; strides in elements.
struct Lanes {
  int64_t is_bf16, slot_stride, head_stride;
  void* const* keys;
  void* const* values;
};

// Tokens [first, first + count) of the step take positions [start, start + count) of a lane.
struct Run {
  int32_t slot, first, count, start;
};

struct DecoderStep {
  int32_t tokens, runs, wanted, threads;
  const int32_t* ids;
  const Run* run;
  const int32_t* kept;    // [wanted] which tokens' logits
  const float* embedded;  // [tokens, hidden], or null
  float* logits;          // [wanted, vocab]
};

}  // namespace kernels

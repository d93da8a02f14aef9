// Attention of the tokens of a step over their lanes.
//
// In: lanes, runs, queries, keys and values of each layer in turn. Out: what each head sees. What a
// token gets hangs on its lane alone: chunks and spans of positions begin at fixed places.
#pragma once

#include <atomic>
#include <vector>

#include "attention.h"
#include "buffer.h"
#include "decoder.h"

namespace kernels::decode {

constexpr int64_t kMaxSpans = 16;  // of a lane: enough to share among threads, and memory for

inline int64_t over(int64_t count, int64_t size) { return (count + size - 1) / size; }

// The lanes of one model. A layer goes: place all, begin, attend, join, with barriers between them.
// Invariant: there is room for the queries of `max_tokens` tokens.
class LaneAttention {
 public:
  LaneAttention(const DecoderShape& shape, const Lanes& lanes);

  // Where each token goes, and how the work is cut into units.
  void plan(const DecoderStep& step);

  int32_t position(int64_t token) const { return positions_[token]; }

  void place_query(int64_t token, int64_t head, const float* from);

  void place_key(int index, int64_t token, int64_t head, const float* from) {
    place(keys_[index], token, head, from);
  }

  void place_value(int index, int64_t token, int64_t head, const float* from) {
    place(values_[index], token, head, from);
  }

  // Called by one thread before any attends.
  void begin() { next_unit_.store(0, std::memory_order_relaxed); }

  // Threads take units as they come: who computes one does not change it.
  void attend(int index, int64_t window);

  // What a head of a token has seen, [head_dim].
  void join_head(int64_t window, int64_t token, int64_t head, float* out) const;

 private:
  void place(void* lanes, int64_t token, int64_t head, const float* from) const;
  template <int W, typename Lane>
  void attend_unit(int index, int64_t window, int64_t unit);
  template <int W, typename Lane>
  void attend_chunk_of(int index, int64_t window, int64_t token, int64_t kv_head, int64_t chunk);

  // The first position that a token sees.
  int64_t first_seen(int64_t window, int64_t token) const {
    return window == 0 ? 0 : std::max<int64_t>(0, positions_[token] - window + 1);
  }

  float* part(int64_t token, int64_t head, int64_t span) const {
    return parts_.floats() + ((token * heads_ + head) * num_spans_ + span) * part_size(head_dim_);
  }

  const int heads_, kv_heads_, head_dim_;
  const float scale_;
  const Lanes lanes_;
  const std::vector<void*> keys_, values_;
  const int group_, width_, turns_;  // heads of one key head, those in one vector, vectors for all
  const bool as_pairs_;
  const int64_t span_;  // chunks that one unit puts together

  Buffer parts_, queries_;
  std::vector<Run> runs_;
  std::vector<int32_t> slots_, positions_;
  std::vector<int64_t> first_unit_;  // [runs + 1]
  int64_t num_spans_ = 0;            // of the longest lane
  std::atomic<int64_t> next_unit_{0};
};

inline LaneAttention::LaneAttention(const DecoderShape& shape, const Lanes& lanes)
    : heads_(shape.heads),
      kv_heads_(shape.kv_heads),
      head_dim_(shape.head_dim),
      scale_(shape.score_scale),
      lanes_(lanes),
      keys_(lanes.keys, lanes.keys + shape.layers),
      values_(lanes.values, lanes.values + shape.layers),
      group_(heads_ / kv_heads_),
      width_(group_ <= 8 ? 8 : 16),
      turns_((group_ + width_ - 1) / width_),
      as_pairs_(lanes.is_bf16 ? reads_pairs<uint16_t>(head_dim_) : reads_pairs<float>(head_dim_)),
      span_(over(lanes.head_stride / head_dim_, kMaxSpans * kChunk)),
      slots_(shape.max_tokens),
      positions_(shape.max_tokens) {
  const size_t queries = int64_t{shape.max_tokens} * kv_heads_ * turns_ * width_ * head_dim_;
  queries_.need(sizeof(float) * queries);
  std::fill_n(queries_.floats(), queries, 0.0f);  // heads that fill up a vector stay zero
}

inline void LaneAttention::plan(const DecoderStep& step) {
  runs_.assign(step.run, step.run + step.runs);
  first_unit_.assign(1, 0);
  num_spans_ = 0;
  for (const Run& run : runs_) {
    for (int i = 0; i < run.count; ++i) {
      slots_[run.first + i] = run.slot;
      positions_[run.first + i] = run.start + i;
    }
    const int64_t spans = over(run.start + run.count, span_ * kChunk);
    first_unit_.push_back(first_unit_.back() + spans * kv_heads_);
    num_spans_ = std::max(num_spans_, spans);
  }
  parts_.need(sizeof(float) * step.tokens * heads_ * num_spans_ * part_size(head_dim_));
}

// A query's entries stand next to those of the other heads that share its key head.
inline void LaneAttention::place_query(int64_t token, int64_t head, const float* from) {
  const int64_t unit = (token * kv_heads_ + head / group_) * turns_ + head % group_ / width_;
  float* to = queries_.floats() + unit * width_ * head_dim_;
  for (int i = 0; i < head_dim_; ++i) {
    put_query(as_pairs_, width_, head % group_ % width_, i, from[i] * scale_, to);
  }
}

inline void LaneAttention::place(void* lanes, int64_t token, int64_t head,
                                 const float* from) const {
  const int64_t offset = slots_[token] * lanes_.slot_stride + head * lanes_.head_stride +
                         int64_t{positions_[token]} * head_dim_;
  for (int i = 0; i < head_dim_; ++i) {
    lanes_.is_bf16 ? narrow(from[i], static_cast<uint16_t*>(lanes) + offset + i)
                   : narrow(from[i], static_cast<float*>(lanes) + offset + i);
  }
}

inline void LaneAttention::attend(int index, int64_t window) {
  const int64_t end = first_unit_.back();
  for (;;) {
    const int64_t unit = next_unit_.fetch_add(1, std::memory_order_relaxed);
    if (unit >= end) return;
    if (lanes_.is_bf16) {
      width_ == 8 ? attend_unit<8, uint16_t>(index, window, unit)
                  : attend_unit<16, uint16_t>(index, window, unit);
    } else {
      width_ == 8 ? attend_unit<8, float>(index, window, unit)
                  : attend_unit<16, float>(index, window, unit);
    }
  }
}

// One span of one lane's key head, for all tokens of its run: read from memory once.
template <int W, typename Lane>
void LaneAttention::attend_unit(int index, int64_t window, int64_t unit) {
  int r = 0;
  while (unit >= first_unit_[r + 1]) ++r;
  const Run& run = runs_[r];
  const int64_t end = over(run.start + run.count, kChunk), spans = over(end, span_);
  const int64_t kv_head = (unit - first_unit_[r]) / spans, span = (unit - first_unit_[r]) % spans;
  for (int64_t chunk = span * span_; chunk < std::min(end, (span + 1) * span_); ++chunk) {
    for (int64_t t = run.first; t < run.first + run.count; ++t) {
      attend_chunk_of<W, Lane>(index, window, t, kv_head, chunk);
    }
  }
}

// One chunk for one token, behind the chunks of the same span that it has seen already.
template <int W, typename Lane>
void LaneAttention::attend_chunk_of(int index, int64_t window, int64_t token, int64_t kv_head,
                                    int64_t chunk) {
  const int64_t first = first_seen(window, token), begin = std::max(chunk * kChunk, first);
  const int64_t count = std::min<int64_t>((chunk + 1) * kChunk, positions_[token] + 1) - begin;
  if (count <= 0) return;
  const bool is_first = chunk % span_ == 0 || chunk == first / kChunk;
  const int64_t size = part_size(head_dim_), stride = num_spans_ * size;
  const int64_t offset = slots_[token] * lanes_.slot_stride + kv_head * lanes_.head_stride +
                         begin * head_dim_;
  const Lane* keys = static_cast<const Lane*>(keys_[index]) + offset;
  const Lane* values = static_cast<const Lane*>(values_[index]) + offset;
  alignas(64) float more[W * (kPartHead + kMaxHeadDim)];
  for (int turn = 0; turn < turns_; ++turn) {
    const int64_t head = kv_head * group_ + turn * W;
    const int64_t query = (token * kv_heads_ + kv_head) * turns_ + turn;
    const int used = std::min(W, group_ - turn * W);
    float* parts = part(token, head, chunk / span_);
    attend_chunk<W>(queries_.floats() + query * W * head_dim_, used, keys, values,
                    static_cast<int>(count), head_dim_, is_first ? parts : more,
                    is_first ? stride : size, [](float*) {});
    for (int g = 0; g < used && !is_first; ++g) {
      merge(parts + g * stride, more + g * size, head_dim_);
    }
  }
}

inline void LaneAttention::join_head(int64_t window, int64_t token, int64_t head,
                                     float* out) const {
  const int64_t first = first_seen(window, token) / (kChunk * span_);
  const int64_t spans = over(positions_[token] + 1, kChunk * span_);
  join(part(token, head, first), spans - first, head_dim_, out);
}

}  // namespace kernels::decode

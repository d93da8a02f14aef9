// One step of a decoder in one call: a few tokens in, their keys and values into lanes, logits out.
//
// In: structs of decoder.h. Out: float32 logits. One parallel region whose phases end in barriers.
// What a token gets hangs on its own lane only: bit for bit the same whatever its neighbours and
// the number of threads.
#include "decoder.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "attention.h"
#include "entry.h"
#include "parallel.h"
#include "rows.h"

namespace kernels::decode {
namespace {

// 64-byte aligned memory that only grows. Its content does not survive growth.
class Buffer {
 public:
  ~Buffer() { std::free(memory_); }

  void need(size_t bytes) {
    if (bytes <= size_) return;
    std::free(memory_);
    size_ = (bytes + 4095) / 4096 * 4096;
    memory_ = std::aligned_alloc(64, size_);
    if (memory_) return;
    size_ = 0;
    throw std::bad_alloc();
  }

  void* get() const { return memory_; }
  float* floats() const { return static_cast<float*>(memory_); }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// One model on one set of lanes. Invariant: buffers hold `max_tokens` rows. Not thread-safe.
class Decoder {
 public:
  Decoder(const DecoderShape& shape, const Lanes& lanes);
  void step(const DecoderStep& step);

 private:
  struct Rows {  // [max_tokens, width]
    Buffer buffer;
    int64_t width = 0;
    void shape(int rows, int64_t columns) {
      width = columns;
      buffer.need(sizeof(float) * rows * columns);
    }
    float* at(int64_t row) const { return buffer.floats() + row * width; }
  };

  void plan();
  void work(int thread, int threads);
  void layer(const DecoderLayer& weights, int index, int thread, int threads);
  void begin(int thread, int threads);
  void norm_rows(const float* gain, const Rows* added, int thread, int threads);
  void prepare(const Input& input, std::initializer_list<const Matrix*> matrices, const Rows& rows,
               int thread, int threads);
  void multiply(const Matrix& matrix, const Input& input, const Rows& to, int thread, int threads);
  void place_heads(const DecoderLayer& weights, int index, int thread, int threads);
  void attend(int index);
  void place_query(int64_t token, int64_t head);
  template <typename Lane>
  void place(int index, int64_t token, int64_t head);
  template <int W, typename Lane>
  void attend_unit(int index, int64_t unit);
  template <int W, typename Lane>
  void attend_chunk_of(int index, int64_t slot, int64_t token, int64_t kv_head, int64_t chunk);
  float* part(int64_t token, int64_t head, int64_t span) const;
  int64_t first_seen(int index, int64_t token) const;
  void join_heads(int index, int thread, int threads);
  void logits(int thread, int threads);

  DecoderShape shape_;
  std::vector<DecoderLayer> layers_;
  Lanes lanes_;
  std::vector<void*> keys_, values_;
  Rows hidden_, normed_, y_, q_, k_, v_, mixed_, gate_, up_, cosines_, sines_;
  Buffer parts_, queries_, memory_[4];
  Input narrow_, heads_, inner_, wanted_;
  int group_, width_, turns_;  // heads of one key head, those in one vector, vectors for all
  bool as_pairs_;

  DecoderStep step_{};
  std::vector<int32_t> slots_, positions_;
  std::vector<int64_t> first_unit_;  // [runs + 1]
  int64_t span_;                     // chunks that one unit of attention puts together
  int64_t num_spans_ = 0;            // of the longest lane
  std::atomic<int64_t> next_unit_{0};
  Barrier barrier_;
};

Input input_of(Buffer& memory, int rows, int columns) {
  memory.need(input_bytes(rows, columns));
  return input_in(memory.get(), rows, columns);
}

constexpr int64_t kMaxSpans = 16;  // of a lane: enough to share among threads, and memory for

int64_t over(int64_t count, int64_t size) { return (count + size - 1) / size; }

Decoder::Decoder(const DecoderShape& shape, const Lanes& lanes)
    : shape_(shape),
      layers_(shape.layer, shape.layer + shape.layers),
      lanes_(lanes),
      keys_(lanes.keys, lanes.keys + shape.layers),
      values_(lanes.values, lanes.values + shape.layers),
      group_(shape.heads / shape.kv_heads),
      width_(group_ <= 8 ? 8 : 16),
      turns_((group_ + width_ - 1) / width_),
      as_pairs_(lanes.is_bf16 ? reads_pairs<uint16_t>(shape.head_dim)
                              : reads_pairs<float>(shape.head_dim)),
      span_(over(lanes.head_stride / shape.head_dim, kMaxSpans * kChunk)) {
  const int rows = shape.max_tokens, all_heads = shape.heads * shape.head_dim;
  for (Rows* each : {&hidden_, &normed_, &y_}) each->shape(rows, shape.hidden);
  for (Rows* each : {&q_, &mixed_}) each->shape(rows, all_heads);
  for (Rows* each : {&k_, &v_}) each->shape(rows, int64_t{shape.kv_heads} * shape.head_dim);
  for (Rows* each : {&gate_, &up_}) each->shape(rows, shape.inner);
  const size_t queries = int64_t{rows} * shape.kv_heads * turns_ * width_ * shape.head_dim;
  queries_.need(sizeof(float) * queries);
  std::fill_n(queries_.floats(), queries, 0.0f);  // heads that fill up a vector stay zero
  for (Rows* each : {&cosines_, &sines_}) each->shape(rows, shape.rotary_dim / 2 + 1);
  narrow_ = input_of(memory_[0], rows, shape.hidden);
  heads_ = input_of(memory_[1], rows, all_heads);
  inner_ = input_of(memory_[2], rows, shape.inner);
  wanted_ = input_of(memory_[3], rows, shape.hidden);
  slots_.resize(rows);
  positions_.resize(rows);
}

void Decoder::step(const DecoderStep& step) {
  step_ = step;
  plan();
  auto body = [this](int thread, int threads) { work(thread, threads); };
  parallel(step.threads, body);
}

// Where each token goes, and how attention is cut into units.
void Decoder::plan() {
  first_unit_.assign(1, 0);
  num_spans_ = 0;
  for (int r = 0; r < step_.runs; ++r) {
    const Run& run = step_.run[r];
    for (int i = 0; i < run.count; ++i) {
      slots_[run.first + i] = run.slot;
      positions_[run.first + i] = run.start + i;
    }
    const int64_t spans = over(run.start + run.count, span_ * kChunk);
    first_unit_.push_back(first_unit_.back() + spans * shape_.kv_heads);
    num_spans_ = std::max(num_spans_, spans);
  }
  parts_.need(sizeof(float) * step_.tokens * shape_.heads * num_spans_ *
              part_size(shape_.head_dim));
  for (Input* each : {&narrow_, &heads_, &inner_}) each->n = step_.tokens;
  wanted_.n = step_.wanted;
}

void Decoder::work(int thread, int threads) {
  begin(thread, threads);
  const Rows* added = nullptr;
  for (int index = 0; index < shape_.layers; ++index) {
    norm_rows(layers_[index].norm_in, added, thread, threads);
    layer(layers_[index], index, thread, threads);
    added = &y_;
  }
  norm_rows(shape_.norm_out, added, thread, threads);
  barrier_.wait(threads);
  logits(thread, threads);
}

// A thread keeps to its own tokens in `begin`, `norm_rows` and `prepare`: no barrier in between.
void Decoder::begin(int thread, int threads) {
  const Share mine = share_of(step_.tokens, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    float* row = hidden_.at(t);
    if (step_.embedded) {
      const float* from = step_.embedded + t * shape_.hidden;
      for (int i = 0; i < shape_.hidden; ++i) row[i] = shape_.embedding_scale * from[i];
    } else {
      const int64_t from = int64_t{step_.ids[t]} * shape_.hidden;
      const Matrix& table = shape_.embedding;
      for (int i = 0; i < shape_.hidden; ++i) {
        row[i] = shape_.embedding_scale *
                 (table.kind == FP32 ? static_cast<const float*>(table.weight)[from + i]
                                     : from_bf16(static_cast<const uint16_t*>(table.weight)[from + i]));
      }
    }
    for (int i = 0; i < shape_.rotary_dim / 2; ++i) {
      const float angle = static_cast<float>(positions_[t]) * shape_.frequencies[i];
      cosines_.at(t)[i] = std::cos(angle) * shape_.rotary_scale;
      sines_.at(t)[i] = std::sin(angle) * shape_.rotary_scale;
    }
  }
}

void Decoder::norm_rows(const float* gain, const Rows* added, int thread, int threads) {
  const Share mine = share_of(step_.tokens, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    if (added) add_scaled(shape_.residual_scale, added->at(t), hidden_.at(t), shape_.hidden);
    rms_norm(hidden_.at(t), gain, shape_.epsilon, shape_.hidden, normed_.at(t));
  }
}

void Decoder::prepare(const Input& input, std::initializer_list<const Matrix*> matrices,
                      const Rows& rows, int thread, int threads) {
  unsigned done = 0;
  for (const Matrix* matrix : matrices) {
    if (done >> matrix->kind & 1) continue;
    done |= 1u << matrix->kind;
    prepare_slice(input, matrix->kind, rows.at(0), rows.width, thread, threads);
  }
  barrier_.wait(threads);
}

void Decoder::multiply(const Matrix& matrix, const Input& input, const Rows& to, int thread,
                       int threads) {
  linear_slice(matrix, input, input.n, to.at(0), to.width, thread, threads);
}

void Decoder::layer(const DecoderLayer& weights, int index, int thread, int threads) {
  prepare(narrow_, {&weights.q, &weights.k, &weights.v}, normed_, thread, threads);
  if (thread == 0) next_unit_.store(0, std::memory_order_relaxed);
  multiply(weights.q, narrow_, q_, thread, threads);
  multiply(weights.k, narrow_, k_, thread, threads);
  multiply(weights.v, narrow_, v_, thread, threads);
  barrier_.wait(threads);
  place_heads(weights, index, thread, threads);
  barrier_.wait(threads);
  attend(index);
  barrier_.wait(threads);
  join_heads(index, thread, threads);
  barrier_.wait(threads);
  prepare(heads_, {&weights.o}, mixed_, thread, threads);
  multiply(weights.o, heads_, y_, thread, threads);
  barrier_.wait(threads);
  norm_rows(weights.norm_mid, &y_, thread, threads);
  prepare(narrow_, {&weights.gate, &weights.up}, normed_, thread, threads);
  multiply(weights.gate, narrow_, gate_, thread, threads);
  multiply(weights.up, narrow_, up_, thread, threads);
  barrier_.wait(threads);
  const Share mine = share_of(step_.tokens, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    gate_rows(shape_.activation, gate_.at(t), up_.at(t), shape_.inner);
  }
  prepare(inner_, {&weights.down}, gate_, thread, threads);
  multiply(weights.down, inner_, y_, thread, threads);
  barrier_.wait(threads);
}

// Norm and rotation of heads; keys and values go into their lanes.
void Decoder::place_heads(const DecoderLayer& weights, int index, int thread, int threads) {
  const int64_t per_token = shape_.heads + 2 * shape_.kv_heads;
  const int size = shape_.head_dim, half = weights.rotates ? shape_.rotary_dim / 2 : 0;
  const Share mine = share_of(step_.tokens * per_token, thread, threads);
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const int64_t t = unit / per_token, which = unit % per_token, key = which - shape_.heads;
    const bool is_query = key < 0;
    if (is_query || key < shape_.kv_heads) {
      float* head = is_query ? q_.at(t) + which * size : k_.at(t) + key * size;
      const float* gain = is_query ? weights.q_gain : weights.k_gain;
      if (gain) rms_norm(head, gain, shape_.head_epsilon, size, head);
      rotate(head, cosines_.at(t), sines_.at(t), half);
    }
    if (is_query) {
      place_query(t, which);
      continue;
    }
    lanes_.is_bf16 ? place<uint16_t>(index, t, key) : place<float>(index, t, key);
  }
}

// A query's entries stand next to those of the other heads that share its key head.
void Decoder::place_query(int64_t token, int64_t head) {
  const int64_t unit = (token * shape_.kv_heads + head / group_) * turns_ + head % group_ / width_;
  const float* from = q_.at(token) + head * shape_.head_dim;
  float* to = queries_.floats() + unit * width_ * shape_.head_dim;
  for (int i = 0; i < shape_.head_dim; ++i) {
    put_query(as_pairs_, width_, head % group_ % width_, i, from[i] * shape_.score_scale, to);
  }
}

// Key `head`, or value `head - kv_heads`, of a token into its lane.
template <typename Lane>
void Decoder::place(int index, int64_t token, int64_t head) {
  const bool is_key = head < shape_.kv_heads;
  const int64_t which = is_key ? head : head - shape_.kv_heads, size = shape_.head_dim;
  const float* from = (is_key ? k_ : v_).at(token) + which * size;
  Lane* to = static_cast<Lane*>(is_key ? keys_[index] : values_[index]) +
             slots_[token] * lanes_.slot_stride + which * lanes_.head_stride +
             positions_[token] * size;
  for (int i = 0; i < size; ++i) narrow(from[i], to + i);
}

// The first position that a token sees in a layer.
int64_t Decoder::first_seen(int index, int64_t token) const {
  const int64_t window = layers_[index].window, position = positions_[token];
  return window == 0 || position < window ? 0 : position - window + 1;
}

// Threads take units as they come: who computes one does not change it.
void Decoder::attend(int index) {
  const int64_t end = first_unit_.back();
  for (;;) {
    const int64_t unit = next_unit_.fetch_add(1, std::memory_order_relaxed);
    if (unit >= end) return;
    if (lanes_.is_bf16) {
      width_ == 8 ? attend_unit<8, uint16_t>(index, unit) : attend_unit<16, uint16_t>(index, unit);
    } else {
      width_ == 8 ? attend_unit<8, float>(index, unit) : attend_unit<16, float>(index, unit);
    }
  }
}

// One span of one lane's key head, for all tokens of its run: read from memory once.
template <int W, typename Lane>
void Decoder::attend_unit(int index, int64_t unit) {
  int r = 0;
  while (unit >= first_unit_[r + 1]) ++r;
  const Run& run = step_.run[r];
  const int64_t end = over(run.start + run.count, kChunk), spans = over(end, span_);
  const int64_t kv_head = (unit - first_unit_[r]) / spans, span = (unit - first_unit_[r]) % spans;
  for (int64_t chunk = span * span_; chunk < std::min(end, (span + 1) * span_); ++chunk) {
    for (int64_t t = run.first; t < run.first + run.count; ++t) {
      attend_chunk_of<W, Lane>(index, run.slot, t, kv_head, chunk);
    }
  }
}

// One chunk for one token, behind the chunks of the same span that it has seen already.
template <int W, typename Lane>
void Decoder::attend_chunk_of(int index, int64_t slot, int64_t token, int64_t kv_head,
                              int64_t chunk) {
  const int64_t first = first_seen(index, token), begin = std::max(chunk * kChunk, first);
  const int64_t count = std::min<int64_t>((chunk + 1) * kChunk, positions_[token] + 1) - begin;
  if (count <= 0) return;
  const bool is_first = chunk % span_ == 0 || chunk == first / kChunk;
  const int64_t size = part_size(shape_.head_dim), stride = num_spans_ * size;
  const int64_t offset = slot * lanes_.slot_stride + kv_head * lanes_.head_stride +
                         begin * shape_.head_dim;
  const Lane* keys = static_cast<const Lane*>(keys_[index]) + offset;
  const Lane* values = static_cast<const Lane*>(values_[index]) + offset;
  alignas(64) float more[W * (kPartHead + kMaxHeadDim)];
  for (int turn = 0; turn < turns_; ++turn) {
    const int64_t head = kv_head * group_ + turn * W;
    const int64_t query = (token * shape_.kv_heads + kv_head) * turns_ + turn;
    const int used = std::min(W, group_ - turn * W);
    float* parts = part(token, head, chunk / span_);
    attend_chunk<W>(queries_.floats() + query * W * shape_.head_dim, used, keys, values,
                    static_cast<int>(count), shape_.head_dim, is_first ? parts : more,
                    is_first ? stride : size, [](float*) {});
    for (int g = 0; g < used && !is_first; ++g) {
      merge(parts + g * stride, more + g * size, shape_.head_dim);
    }
  }
}

float* Decoder::part(int64_t token, int64_t head, int64_t span) const {
  return parts_.floats() +
         ((token * shape_.heads + head) * num_spans_ + span) * part_size(shape_.head_dim);
}

void Decoder::join_heads(int index, int thread, int threads) {
  const Share mine = share_of(int64_t{step_.tokens} * shape_.heads, thread, threads);
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const int64_t t = unit / shape_.heads, head = unit % shape_.heads;
    const int64_t first = first_seen(index, t) / (kChunk * span_);
    join(part(t, head, first), over(positions_[t] + 1, kChunk * span_) - first, shape_.head_dim,
         mixed_.at(t) + head * shape_.head_dim);
  }
}

void Decoder::logits(int thread, int threads) {
  if (step_.wanted == 0) return;
  const Share mine = share_of(step_.wanted, thread, threads);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    std::copy_n(normed_.at(step_.kept[i]), shape_.hidden, y_.at(i));
  }
  prepare(wanted_, {&shape_.head}, y_, thread, threads);
  const int64_t vocab = shape_.head.rows;
  linear_slice(shape_.head, wanted_, step_.wanted, step_.logits, vocab, thread, threads);
  if (shape_.logit_scale == 1.0f) return;
  barrier_.wait(threads);
  const Share part = share_of(step_.wanted * vocab, thread, threads);
  for (int64_t i = part.begin; i < part.end; ++i) step_.logits[i] *= shape_.logit_scale;
}

}  // namespace
}  // namespace kernels::decode

// A decoder, or null where memory ran out. What the structs point to must outlive it.
EXPORTED void* libertai_decoder_new(const kernels::DecoderShape* shape, const kernels::Lanes* lanes) {
  try {
    return new kernels::decode::Decoder(*shape, *lanes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// 0, or 1 where memory ran out; lanes and logits are then as they were.
EXPORTED int libertai_decoder_step(void* decoder, const kernels::DecoderStep* step) {
  try {
    static_cast<kernels::decode::Decoder*>(decoder)->step(*step);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

EXPORTED void libertai_decoder_free(void* decoder) { delete static_cast<kernels::decode::Decoder*>(decoder); }

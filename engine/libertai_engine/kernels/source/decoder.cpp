// One step of a decoder in one call: a few tokens in, their keys and values into lanes, logits out.
//
// In: structs of decoder.h. Out: float32 logits. One parallel region whose phases end in barriers.
// What a token gets hangs on its own lane only: bit for bit the same whatever its neighbours and
// the number of threads.
#include "decoder.h"

#include <new>
#include <vector>

#include "buffer.h"
#include "entry.h"
#include "lane_attention.h"
#include "parallel.h"
#include "rows.h"

namespace kernels::decode {
namespace {

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
  void join_heads(const DecoderLayer& weights, int thread, int threads);
  void logits(int thread, int threads);

  DecoderShape shape_;
  std::vector<DecoderLayer> layers_;
  LaneAttention attention_;
  Rows hidden_, normed_, y_, q_, k_, v_, mixed_, gate_, up_, cosines_, sines_;
  Buffer memory_[4];
  Input narrow_, heads_, inner_, wanted_;
  DecoderStep step_{};
  Barrier barrier_;
};

Input input_of(Buffer& memory, int rows, int columns) {
  memory.need(input_bytes(rows, columns));
  return input_in(memory.get(), rows, columns);
}

Decoder::Decoder(const DecoderShape& shape, const Lanes& lanes)
    : shape_(shape),
      layers_(shape.layer, shape.layer + shape.layers),
      attention_(shape, lanes) {
  const int rows = shape.max_tokens, all_heads = shape.heads * shape.head_dim;
  for (Rows* each : {&hidden_, &normed_, &y_}) each->shape(rows, shape.hidden);
  for (Rows* each : {&q_, &mixed_}) each->shape(rows, all_heads);
  for (Rows* each : {&k_, &v_}) each->shape(rows, int64_t{shape.kv_heads} * shape.head_dim);
  for (Rows* each : {&gate_, &up_}) each->shape(rows, shape.inner);
  for (Rows* each : {&cosines_, &sines_}) each->shape(rows, shape.rotary_dim / 2 + 1);
  narrow_ = input_of(memory_[0], rows, shape.hidden);
  heads_ = input_of(memory_[1], rows, all_heads);
  inner_ = input_of(memory_[2], rows, shape.inner);
  wanted_ = input_of(memory_[3], rows, shape.hidden);
}

void Decoder::step(const DecoderStep& step) {
  step_ = step;
  plan();
  auto body = [this](int thread, int threads) { work(thread, threads); };
  parallel(step.threads, body);
}

void Decoder::plan() {
  attention_.plan(step_);
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
      const float angle = static_cast<float>(attention_.position(t)) * shape_.frequencies[i];
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
  if (thread == 0) attention_.begin();
  multiply(weights.q, narrow_, q_, thread, threads);
  multiply(weights.k, narrow_, k_, thread, threads);
  multiply(weights.v, narrow_, v_, thread, threads);
  barrier_.wait(threads);
  place_heads(weights, index, thread, threads);
  barrier_.wait(threads);
  attention_.attend(index, weights.window);
  barrier_.wait(threads);
  join_heads(weights, thread, threads);
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
      attention_.place_query(t, which, q_.at(t) + which * size);
    } else if (key < shape_.kv_heads) {
      attention_.place_key(index, t, key, k_.at(t) + key * size);
    } else {
      const int64_t value = key - shape_.kv_heads;
      attention_.place_value(index, t, value, v_.at(t) + value * size);
    }
  }
}

void Decoder::join_heads(const DecoderLayer& weights, int thread, int threads) {
  const Share mine = share_of(int64_t{step_.tokens} * shape_.heads, thread, threads);
  for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
    const int64_t t = unit / shape_.heads, head = unit % shape_.heads;
    attention_.join_head(weights.window, t, head, mixed_.at(t) + head * shape_.head_dim);
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

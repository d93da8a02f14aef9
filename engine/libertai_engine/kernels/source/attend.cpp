// Attention of many tokens of one lane: prompts, while decoder.cpp has the small steps.
//
// In: queries [head, count, head_dim], and the lane of one slot, which holds these tokens already.
// Out: [count, head, head_dim] in the type of the queries. Causal, within a window if there is one.
#include <algorithm>
#include <atomic>

#include "attention.h"
#include "entry.h"
#include "parallel.h"

namespace kernels::decode {
namespace {

constexpr int kWidth = 16;  // queries, of several heads and tokens, in one vector
constexpr int kTile = 8;    // tokens, at least, that read a chunk of keys while it is in the cache

// The same fields in the same order as in kernels/attend.py.
struct Attention {
  int32_t is_bf16, heads, kv_heads, head_dim, count, start, window, threads;
  const void* query;
  int64_t query_head, query_token;  // strides in elements
  const void* keys;    // [kv_head, position, head_dim], positions behind each other
  const void* values;
  int64_t key_head, value_head;  // strides in elements
  void* out;
  double scale;
};

// One call. A vector holds the heads of one key head for as many tokens as fit; where they do not
// fit for one token, it takes several vectors. Invariant: a thread has its part of `memory` to
// itself.
template <typename Lane>
class Attending {
 public:
  explicit Attending(const Attention& what)
      : what_(what),
        group_(what.heads / what.kv_heads),
        tokens_(std::max(1, kWidth / group_)),
        turns_((group_ + kWidth - 1) / kWidth),
        tile_((kTile + tokens_ - 1) / tokens_ * tokens_),
        part_(part_size(what.head_dim)),
        query_(int64_t{kWidth} * what.head_dim),
        queries_(tile_ / tokens_ * turns_ * query_),
        floats_(queries_ + (tile_ * group_ + kWidth) * part_) {}

  size_t bytes() const { return sizeof(float) * floats_ * what_.threads; }

  void run(float* memory) {
    const int64_t tiles = (what_.count + tile_ - 1) / tile_, units = tiles * what_.kv_heads;
    std::atomic<int64_t> next{0};
    auto body = [&](int thread, int) {
      float* mine = memory + thread * floats_;
      std::fill_n(mine, queries_, 0.0f);  // what fills up a vector is a number
      for (;;) {
        const int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
        if (unit >= units) return;
        // The last tiles have most to do, so they come first.
        tile(mine, static_cast<int>(unit % what_.kv_heads), tiles - 1 - unit / what_.kv_heads);
      }
    };
    parallel(what_.threads, body);
  }

 private:
  int64_t first_seen(int64_t position) const {
    return what_.window == 0 ? 0 : std::max<int64_t>(0, position - what_.window + 1);
  }

  // What a head of a token of the tile has seen so far.
  float* part(float* memory, int64_t t, int head) const {
    return memory + queries_ + (t * group_ + head) * part_;
  }

  // What the heads of one vector see in one chunk.
  float* parts_of_chunk(float* memory) const { return part(memory, tile_, 0); }

  // Tokens [first, first + n) of the call, for one key head.
  void tile(float* memory, int kv_head, int64_t index) const {
    const int64_t first = index * tile_;
    const int64_t n = std::min<int64_t>(tile_, what_.count - first);
    for (int64_t t = 0; t < n; ++t) place(memory, kv_head, first, t);
    // Within a window, tokens of a tile may begin with different chunks.
    const bool is_plain = what_.window == 0;
    for (int64_t i = 0; i < n * group_ && !is_plain; ++i) clear(part(memory, 0, i), what_.head_dim);
    const int64_t begin = first_seen(what_.start + first) / kChunk;
    const int64_t end = (what_.start + first + n - 1) / kChunk;
    for (int64_t chunk = begin; chunk <= end; ++chunk) {
      for (int64_t t = 0; t < n; t += tokens_) {
        attend(memory, kv_head, first, t, std::min<int64_t>(tokens_, n - t), chunk,
               is_plain && chunk == begin);
      }
    }
    for (int64_t t = 0; t < n; ++t) finish(memory, kv_head, first, t);
  }

  void place(float* memory, int kv_head, int64_t first, int64_t t) const {
    const bool as_pairs = reads_pairs<Lane>(what_.head_dim);
    const int before = static_cast<int>(t % tokens_) * group_;
    for (int g = 0; g < group_; ++g) {
      const Lane* from = static_cast<const Lane*>(what_.query) +
                         (kv_head * group_ + g) * what_.query_head + (first + t) * what_.query_token;
      float* to = memory + (t / tokens_ * turns_ + g / kWidth) * query_;
      for (int i = 0; i < what_.head_dim; ++i) {
        const float x = widen(from[i]) * static_cast<float>(what_.scale);
        put_query(as_pairs, kWidth, (before + g) % kWidth, i, x, to);
      }
    }
  }

  // Tokens [t, t + n) of a tile, which share vectors, against one chunk.
  void attend(float* memory, int kv_head, int64_t first, int64_t t, int64_t n, int64_t chunk,
              bool is_first) const {
    const int64_t position = what_.start + first + t;
    const int64_t begin = std::max(chunk * kChunk, first_seen(position));
    const int64_t count = std::min<int64_t>((chunk + 1) * kChunk, position + n) - begin;
    if (count <= 0) return;
    const int64_t offset = begin * what_.head_dim;
    const Lane* keys = static_cast<const Lane*>(what_.keys) + kv_head * what_.key_head + offset;
    const Lane* values = static_cast<const Lane*>(what_.values) + kv_head * what_.value_head + offset;
    const auto hide = [&](float* scores) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t from = first_seen(position + i) - begin, to = position + i + 1 - begin;
        float* column = scores + i * group_;
        for (int64_t j = 0; j < std::min(from, count); ++j) cover(column + j * kWidth);
        for (int64_t j = std::max<int64_t>(to, 0); j < count; ++j) cover(column + j * kWidth);
      }
    };
    for (int turn = 0; turn < turns_; ++turn) {
      const int used = std::min<int>(kWidth, static_cast<int>(n) * group_ - turn * kWidth);
      float* all = part(memory, t, turn * kWidth);
      float* seen = is_first ? all : parts_of_chunk(memory);
      attend_chunk<kWidth>(memory + (t / tokens_ * turns_ + turn) * query_, used, keys, values,
                           static_cast<int>(count), what_.head_dim, seen, part_, hide);
      for (int i = 0; i < used && !is_first; ++i) {
        merge(all + i * part_, seen + i * part_, what_.head_dim);
      }
    }
  }

  void cover(float* scores) const {
    std::fill_n(scores, std::min(group_, kWidth), -std::numeric_limits<float>::infinity());
  }

  void finish(float* memory, int kv_head, int64_t first, int64_t t) const {
    float whole[kMaxHeadDim];
    for (int g = 0; g < group_; ++g) {
      join(part(memory, t, g), 1, what_.head_dim, whole);
      Lane* out = static_cast<Lane*>(what_.out) +
                  ((first + t) * what_.heads + kv_head * group_ + g) * what_.head_dim;
      for (int i = 0; i < what_.head_dim; ++i) narrow(whole[i], out + i);
    }
  }

  const Attention what_;
  const int group_, tokens_, turns_, tile_;
  const int64_t part_, query_, queries_, floats_;
};

thread_local Workspace workspace;

template <typename Lane>
int attend(const Attention& what) {
  Attending<Lane> attending(what);
  char* memory = workspace.at_least(attending.bytes());
  if (!memory) return 1;
  attending.run(reinterpret_cast<float*>(memory));
  return 0;
}

}  // namespace
}  // namespace kernels::decode

// 0, or 1 where memory ran out.
EXPORTED int libertai_attend(const kernels::decode::Attention* what) {
  using namespace kernels::decode;
  return what->is_bf16 ? attend<uint16_t>(*what) : attend<float>(*what);
}

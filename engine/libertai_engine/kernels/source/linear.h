// Linear layers: y = x W^T + b, with weights in fp32, bf16, int8 or int4.
//
// In: a Matrix, and activations that `prepare_slice` has put into the forms the kernels read.
// Out: fp32 results. A row of y depends on its row of x alone: bit for bit the same whatever the
// number of rows and of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kernels {

enum Kind : int32_t { FP32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

constexpr int kRowBlock = 16;  // rows of an int4 block, and the unit in which threads share rows
constexpr int kGroup = 32;     // columns that share one scale in int4
constexpr int kPad = 64;       // prepared activations are padded with zeros to a multiple of it

// Weights of one layer. Owns nothing.
//   fp32, bf16: row-major [rows, cols], as torch holds them; any alignment of the element's type.
//   int8: row-major [rows, cols]; scale [rows]; extra: int32 [rows], the sums of the rows.
//   int4: packing.py says how; weight and scale are padded to full blocks.
// bias: fp32 [rows] or null.
struct Matrix {
  int32_t kind;
  int32_t rows, cols, group;
  const void* weight;
  const void* scale;
  const void* extra;
  const float* bias;
};

// Activations of `n` rows, in every form that a kind of matrix asks for. Owns nothing.
// Rows are `padded` apart, an odd multiple of kPad, and zero beyond `cols`.
struct Input {
  int32_t n, cols, padded;
  float* fp32;           // [n, padded]
  uint16_t* bf16;        // [n, padded]
  uint8_t* u8;           // [n, padded]: 128 + round(x / u8_scale)
  float* u8_scale;       // [n]
  int8_t* s8;            // [n, padded]: round(x / s8_scale)
  float* s8_scale;       // [n, padded / kGroup]
  int32_t* s8_sum;       // [n, padded / kGroup]: -8 times the group's sum of s8
};

// Bytes that `input_in` needs.
size_t input_bytes(int n, int cols);

// An Input whose arrays lie in `memory`, 64-byte aligned, of at least input_bytes(n, cols).
Input input_in(void* memory, int n, int cols);

// Called by all threads of a region; fills the form that matrices of `kind` read. x is [n, cols],
// fp32, rows `stride_x` elements apart. A barrier must follow. May be called for several kinds.
// With thread 0 of 1 and an Input of its own, each thread can do this alone, without a barrier.
void prepare_slice(const Input& input, int kind, const float* x, int64_t stride_x, int thread,
                   int threads);

// Called by all threads of a region; y [n, rows], rows `stride_y` elements apart. Each thread
// writes the columns of its own blocks of kRowBlock matrix rows. A barrier must follow before y is
// read by others.
void linear_slice(const Matrix& matrix, const Input& input, int n, float* y, int64_t stride_y,
                  int thread, int threads);

// `count` numbers as bf16, to nearest even; NaN stays NaN.
void to_bf16s(const float* from, int count, uint16_t* to);

// The same for one number.
inline float from_bf16(uint16_t value) {
  union {
    uint32_t bits;
    float number;
  } both;
  both.bits = static_cast<uint32_t>(value) << 16;
  return both.number;
}

inline uint16_t to_bf16(float value) {
  union {
    float number;
    uint32_t bits;
  } both;
  both.number = value;
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}

}  // namespace kernels
